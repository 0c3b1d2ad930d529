"""What a sweep with sweep.seeds=auto prints: what it will run before it starts, and the verdicts at its end."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from gptx.console import Console, VisibleText
from gptx.sweep.plan.auto_seeds import follow, not_needed
from gptx.sweep.plan.cells import Cell
from gptx.sweep.state.folder import AutoSeeds, PlannedCell

if TYPE_CHECKING:  # needs scipy and pandas
    from gptx.statistics.sequential import SequentialArm


@dataclass(frozen=True)
class AutoPreview:
    """What is known before the command starts.

    Attributes:
        later: titles of the runs that are needed only if arms are still undecided.
        dropped: titles of the runs that are not needed any more.
        note: a line about the design, with the fewest and the most runs.
    """

    later: Collection[str]
    dropped: Collection[str]
    note: str

    @classmethod
    def of(cls, auto: AutoSeeds, cells: Sequence[Cell], outputs: Path) -> "AutoPreview":
        """``cells``: all cells of the sweep."""
        planned = [cell.planned() for cell in cells]
        stale = {cell.title for cell in cells if cell.config and cell.config["force"]}
        state = follow(auto, planned, outputs, stale=stale)
        dropped = not_needed(auto, state, planned)
        needed = set(state.needed)
        open_cells = [cell for cell in cells if not (cell.rejection or cell.done or cell.title in dropped)]
        later = {cell.title for cell in open_cells if (cell.arm, int(cell.config["seed"])) not in needed}
        arms = len(state.arms) + 1
        note = (
            f"seeds: each of {arms} arms trains with {auto.min_seeds} seeds, then with one more at a time until its "
            f"difference from {auto.baseline or 'the baseline'} is decided, at most with {auto.max_seeds}; "
            f"{arms * auto.min_seeds} to {arms * auto.max_seeds} runs"
        )
        return cls(later, dropped.keys(), note)


def show_verdicts(auto: AutoSeeds, cells: Sequence[PlannedCell], outputs: Path, failed: Collection[str] = ()) -> None:
    """Print the verdict about every arm. ``failed``: titles of runs that have failed."""
    from gptx.statistics.sequential import ArmProgress

    state = follow(auto, cells, outputs, failed)
    table = Table("arm", "verdict", title=f"difference of the loss from {auto.baseline}, in nats per token")
    for name in ("difference", "interval", "seeds"):
        table.add_column(name, justify="right")
    table.add_column("")
    for arm in state.arms:
        table.add_row(*map(VisibleText, _row(arm, auto)))
    console = Console()
    console.print()
    console.print(table)
    notes = [f"equivalent: within +-{auto.margin:g}; the intervals of all arms hold together, at all looks, with 95 %"]
    if any(arm.stopped_early for arm in state.arms):
        notes.append("stopped early: the difference is biased away from zero, the interval is valid")
    if any(arm.progress is ArmProgress.MAX_SEEDS for arm in state.arms):
        notes.append(f"sweep.max_seeds={auto.max_seeds} seeds were not enough for every arm")
    for note in notes:
        console.print(VisibleText(note), soft_wrap=not console.is_terminal)


def _row(arm: "SequentialArm", auto: AutoSeeds) -> list[str]:
    from gptx.statistics.sequential import ArmProgress

    marks = {ArmProgress.FAILED: "a run of the arm or of the baseline failed", ArmProgress.CONTINUES: "not finished"}
    mark = "stopped early" if arm.stopped_early else marks.get(arm.progress, "")
    if arm.interval is None:
        return [arm.arm, arm.verdict, "-", "-", str(arm.seeds), mark]
    digits = max(4, 2 - math.floor(math.log10(auto.margin))) if auto.margin else 4
    low, high = (f"{limit:+.{digits}f}" for limit in (arm.interval.low, arm.interval.high))
    return [arm.arm, arm.verdict, f"{arm.interval.estimate:+.{digits}f}", f"{low} to {high}", str(arm.seeds), mark]
