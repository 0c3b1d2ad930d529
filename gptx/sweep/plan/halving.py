"""`sweep.halving=true`: successive halving (Jamieson and Talwalkar 2016).

All arms train up to a step that is called the first rung. The best of them continue from their checkpoints to the next
rung, and so on; the last ones train to the end. An arm consists of the runs that differ only in their seeds.

Every run has the schedule of the full run and is only stopped at a rung, so a run that reaches its end is identical to
one that was never stopped. Arms are compared by the mean over their seeds of bits per byte on the selection half, which
do not depend on the tokenizer; if two are equal, the one that comes first in the grid is promoted. An arm with a failed
or diverged run has no mean and is dropped. If the same command is given again, it retries failed runs and then repeats
the decision.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from statistics import mean
from typing import Self

from gptx.errors import ConfigError
from gptx.runs.journal import metrics
from gptx.runs.metrics import selection_curve
from gptx.sweep.plan.cells import Cell
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import CommandStarted, Rung, SweepRecord

METRIC = "val_bpb"


def decisions(records: Iterable[SweepRecord], factor: int) -> list[Rung]:
    """The decisions that are valid after these records, by ascending step.

    A later decision replaces an earlier one at the same step and all decisions at later steps. A new command
    invalidates decisions with failed runs, because it retries those runs; a command with force=true invalidates
    all decisions.

    Args:
        records: the records of the sweep's journal.
    """
    rungs: list[Rung] = []
    for record in records:
        if isinstance(record, CommandStarted):
            rungs = [] if record.force else list(takewhile(lambda rung: not rung.failed, rungs))
        elif isinstance(record, Rung) and record.factor == factor:
            rungs = [*(earlier for earlier in rungs if earlier.step < record.step), record]
    return rungs


def dropped(rungs: Iterable[Rung], titles: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """{title of a dropped run: reason}. ``titles``: the titles of the runs of each arm."""
    reasons: dict[str, str] = {}
    for rung in rungs:
        for place, (arm, loss) in enumerate(rung.losses.items(), 1):
            if arm not in rung.promoted:
                why = "a run of this arm failed" if loss is None else f"place {place} of {len(rung.losses)}"
                reasons |= dict.fromkeys(titles.get(arm, ()), f"dropped at step {rung.step}: {why}")
    return reasons


def rung_steps(arms: int, max_steps: int, eval_every: int, factor: int) -> list[int]:
    """The steps at which arms are dropped: max_steps / factor, / factor**2 and so on, as long as there are arms to
    drop, each rounded to the nearest validation."""
    steps: set[int] = set()
    divisor = factor
    while arms > 1:
        steps.add(round(max_steps / divisor / eval_every) * eval_every)
        arms, divisor = math.ceil(arms / factor), divisor * factor
    return sorted(step for step in steps if 0 < step < max_steps)


def check_rungs(cells: Sequence[Cell], factor: int) -> list[int]:
    """The rungs of a grid. ``cells`` may be empty, if all are rejected.

    Raises:
        ConfigError: the arms cannot be compared while they train.
    """
    if factor < 2:
        raise ConfigError(f"sweep.factor={factor}: expected at least 2; the best 1/factor of the arms are promoted")
    for key in ("max_steps", "eval_every"):
        values = sorted({cell.config["trainer"][key] for cell in cells})
        if len(values) > 1:
            given = ",".join(map(str, values))
            raise ConfigError(
                f"sweep.halving compares arms at the same steps, so trainer.{key}={given} cannot vary; use one value"
            )
    if any(cell.config["resume_from"] for cell in cells):
        raise ConfigError("sweep.halving needs runs that start untrained; remove resume_from")
    if not cells:
        return []
    arms, trainer = len({cell.arm for cell in cells}), cells[0].config["trainer"]
    steps = rung_steps(arms, trainer["max_steps"], trainer["eval_every"], factor)
    if arms > 1 and not steps:
        raise ConfigError(
            f"sweep.halving compares arms at validations, but trainer.eval_every={trainer['eval_every']} leaves none "
            f"early enough before trainer.max_steps={trainer['max_steps']}; use "
            f"trainer.eval_every={max(1, trainer['max_steps'] // (2 * factor))}"
        )
    return steps


@dataclass(frozen=True)
class Stage:
    """Training between two rungs.

    Attributes:
        steps: its steps, as a fraction of all remaining steps.
        arms: its arms, as a fraction of the arms that are not dropped yet.
    """

    steps: float
    arms: float


class HalvingState:
    """The progress of a successive halving.

    Args:
        cells: all cells that can run; finished ones take part in the comparison.
        factor: the best 1/factor of the arms are promoted.
        records: the records of the sweep's journal, see `decisions`.

    Attributes:
        arms: the cells of every arm.
        remaining: the arms that are not dropped yet.
        steps: the steps of the next rungs, then 0 for the end of training; empty when the halving is finished.
        rungs: the decisions so far.
        force: finished runs are trained again.
    """

    def __init__(self, cells: Sequence[Cell], factor: int, records: Iterable[SweepRecord]) -> None:
        self.factor = factor
        self.steps = [*check_rungs(cells, factor), 0]
        self.force = any(cell.config["force"] for cell in cells)
        self.arms: dict[str, list[Cell]] = {}
        for cell in cells:
            self.arms.setdefault(cell.arm, []).append(cell)
        self.remaining = list(self.arms)
        self.rungs: list[Rung] = []
        for rung in [] if self.force else decisions(records, factor):
            if self.steps[:1] == [rung.step] and {*rung.losses} == {*self.remaining}:  # about the same arms
                self.apply(rung)

    @classmethod
    def next_command(cls, cells: Iterable[Cell], factor: int, sweep: Sweep) -> Self:
        """The state in which a command that starts now would continue."""
        records = [*sweep.records(), CommandStarted()]
        return cls([cell for cell in cells if not cell.rejection], factor, records)

    def apply(self, rung: Rung) -> None:
        self.rungs.append(rung)
        self.remaining = list(rung.promoted)
        self.steps = self.steps[1:] if self.remaining else []

    def decide(self, failed: set[str]) -> Rung:
        """The decision at the rung that all remaining arms have reached. ``failed``: arms with a failed run."""
        step = self.steps[0]
        losses = {arm: None if arm in failed else _mean_loss(self.arms[arm], step) for arm in self.remaining}
        order = sorted(losses, key=lambda arm: math.inf if (loss := losses[arm]) is None else loss)
        best = order[: math.ceil(len(order) / self.factor)]
        promoted = tuple(arm for arm in self.remaining if arm in best and losses[arm] is not None)
        return Rung(
            factor=self.factor,
            step=step,
            losses={arm: losses[arm] for arm in order},
            promoted=promoted,
            failed=tuple(arm for arm in self.remaining if arm in failed),
        )

    def dropped(self) -> dict[str, str]:
        """{title of a dropped run: reason}."""
        return dropped(self.rungs, {arm: [cell.title for cell in cells] for arm, cells in self.arms.items()})

    def stages(self) -> list[Stage]:
        """The remaining training, stage by stage."""
        start = self.rungs[-1].step if self.rungs else 0
        last = next(cell.config["trainer"]["max_steps"] for cells in self.arms.values() for cell in cells)
        arms, stages = len(self.remaining), []
        for begin, end in pairwise([start, *self.steps[:-1], last]):
            stages.append(Stage((end - begin) / (last - start), arms / len(self.remaining)))
            arms = math.ceil(arms / self.factor)
        return stages

    def __str__(self) -> str:
        """One line for the preview; empty if no decision is left."""
        if not (steps := [f"{step:,}" for step in self.steps[:-1]]):
            return ""
        best = "better half" if self.factor == 2 else f"best 1/{self.factor}"
        return f"halving: after step{'s' * (len(steps) > 1)} {', '.join(steps)} only the {best} of these arms continues"


def loss_at(cell: Cell, step: int) -> float | None:
    """Bits per byte of a run at a step, on the selection half. If the run finished before that step (trainer.patience),
    the last value; None if there is none yet."""
    assert cell.folder is not None
    records = (record for record in metrics(cell.folder.path) if record.step <= step)
    found = ((record.step, selection_curve(METRIC, record.values)) for record in records)
    losses = {at: value for at, value in found if value is not None}
    last = max(losses, default=None)
    return losses[last] if last is not None and (last == step or cell.folder.finished()) else None


def _mean_loss(cells: Sequence[Cell], step: int) -> float | None:
    losses = [loss_at(cell, step) for cell in cells]
    if any(loss is None or not math.isfinite(loss) for loss in losses):
        return None
    return mean(loss for loss in losses if loss is not None)
