"""The arms that a report shows, the baseline first, with their runs."""

from dataclasses import dataclass

from gptx.compare.arms import Arm, arms_of, with_diverged
from gptx.compare.comparison import Comparison
from gptx.compare.run_rows import RunRow, selected


@dataclass(frozen=True)
class ShownArm:
    """An arm of the report; ``arm.rows`` are its finished runs."""

    arm: Arm
    is_baseline: bool

    @property
    def rows(self) -> tuple[RunRow, ...]:
        """All of its runs, also those that diverged."""
        return (*self.arm.rows, *self.arm.diverged)


def shown_arms(comparison: Comparison) -> list[ShownArm]:
    """The baseline and the arms that are compared with it, best first. Without a comparison: all arms."""
    if comparison.baseline is not None:
        compared = [ShownArm(one.arm, False) for one in comparison.arms]
        return [ShownArm(comparison.baseline, True), *compared]
    rows = selected(comparison.found.rows)
    return [ShownArm(arm, False) for arm in with_diverged(arms_of(rows), comparison.found.rows)]
