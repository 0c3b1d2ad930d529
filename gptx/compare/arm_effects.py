"""The differences of arms from a baseline by one metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gptx.compare.arms import Arm
from gptx.compare.comparable_arms import size_difference
from gptx.compare.formatting import count
from gptx.runs.metrics import Metric
from gptx.statistics.effects import Effect, Effects, effects


@dataclass(frozen=True, kw_only=True)
class ArmEffect:
    """An arm against the baseline: the difference of the metric, and how its size differs.

    Attributes:
        mean: of the metric over the arm's runs.
        size: such as ``12.0% fewer params``; empty within 1 %.
        unmeasured: how many of the arm's finished runs lack the metric, though they did not diverge.
    """

    arm: Arm
    effect: Effect
    mean: float
    size: str
    unmeasured: int = 0

    @property
    def note(self) -> str:
        """What limits this row; empty if nothing does."""
        runs = len(self.arm.rows) + len(self.arm.diverged)
        note = self.effect.note
        if self.effect.diverged == runs:
            note = f"all {runs} runs diverged" if runs > 1 else "its run diverged"
        missing = f"not measured in {self.unmeasured} of {count(len(self.arm.rows), 'run')}"
        return "; ".join(filter(None, (note, missing if self.unmeasured else "")))


def computed_effects(
    arms: Sequence[Arm], baseline: Arm, metric: Metric, margin: float, all_pairs: bool = False
) -> Effects:
    """The differences of the arms from the baseline, or of all pairs; see `gptx.statistics.effects`."""
    frame = values_frame(arms, metric)
    more = {"higher_is_better": metric.higher_is_better, "all_pairs": all_pairs}
    return effects(frame, baseline.name, margin or None, **more)


def values_frame(arms: Sequence[Arm], metric: Metric) -> pd.DataFrame:
    """One row for each run (arm, seed, value); NaN: it diverged. Runs in which the metric was not measured are left
    out."""
    runs = [(arm, row) for arm in arms for row in (*arm.rows, *arm.diverged)]
    records = [
        (arm.name, str(row.seed_label), math.nan if row.diverged else row.metrics[metric.key])
        for arm, row in runs
        if row.diverged or row.measures(metric)
    ]
    return pd.DataFrame(records, columns=["arm", "seed", "value"])


def arm_effects(arms: Sequence[Arm], baseline: Arm, computed: Effects, metric: Metric) -> list[ArmEffect]:
    """All arms but the baseline, the best estimate first, and those without an estimate last."""
    found = [
        ArmEffect(
            arm=arm,
            effect=computed.of(arm.name),
            mean=arm.mean(metric.key),
            size=size_difference(arm, baseline),
            unmeasured=sum(not row.diverged and not row.measures(metric) for row in arm.rows),
        )
        for arm in arms
        if arm is not baseline
    ]
    sign = -1 if metric.higher_is_better else 1
    return sorted(found, key=lambda one: (one.effect.estimate != one.effect.estimate, sign * one.effect.estimate))
