"""`sweep.halving=true`: successive halving (Jamieson and Talwalkar 2016). All arms train a little, the better share of
them goes on from its checkpoints, and so forth; the last ones train to the end.

Every run is the whole one, with its own schedule, stopped on its way: what goes on is what an undisturbed run would be.
Arms are compared by bits a byte, which does not depend on the tokenizer, as a mean over their seeds; of equals those
that come first in the grid go on. An arm of which a run has failed, or diverged, goes no further: it has no mean. The
same command tries what has failed again, and then decides anew.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from statistics import mean
from typing import Self

from gptx.errors import ConfigError
from gptx.runs.journal import metrics
from gptx.runs.json_log import JsonLog, Line
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.plan.cells import Cell
from gptx.sweep.search.rungs import Rung, decided, left_out
from gptx.sweep.state.folder import Sweep

METRIC = "val/bpb"


def rungs(arms: int, max_steps: int, eval_every: int, factor: int) -> list[int]:
    """The steps at which arms are left out: shares of the whole, 1/factor and so on, as long as there are arms to leave
    out, at the nearest validations."""
    found: set[int] = set()
    share = factor
    while arms > 1:
        found.add(round(max_steps / share / eval_every) * eval_every)
        arms, share = math.ceil(arms / factor), share * factor
    return sorted(step for step in found if 0 < step < max_steps)


def check(cells: Sequence[Cell], factor: int) -> list[int]:
    """The rungs of a grid, which may be empty: all of it is refused.

    Raises:
        ConfigError: its arms cannot be compared on their way.
    """
    if factor < 2:
        raise ConfigError(f"sweep.factor={factor}: expected at least 2: one arm in so many goes on")
    for key in ("max_steps", "eval_every"):
        values = sorted({cell.cfg.trainer[key] for cell in cells})
        if len(values) > 1:
            given = ", ".join(map(str, values))
            raise ConfigError(f"sweep.halving compares arms at the same steps, given trainer.{key}={given}: use one")
    if any(cell.cfg.resume_from for cell in cells):
        raise ConfigError("sweep.halving begins with runs that have not been trained: leave resume_from out")
    if not cells:
        return []
    arms, trainer = len({cell.arm for cell in cells}), cells[0].cfg.trainer
    found = rungs(arms, trainer.max_steps, trainer.eval_every, factor)
    if arms > 1 and not found:
        often = max(1, trainer.max_steps // (2 * factor))
        raise ConfigError(
            f"sweep.halving finds no validation to compare arms at, with trainer.eval_every={trainer.eval_every} of "
            f"trainer.max_steps={trainer.max_steps}: trainer.eval_every={often} would do"
        )
    return found


class Course:
    """How far a halving is: the arms that are left, and the steps that are still to come (0: the end).

    Args:
        cells: what is to be run; those that are done take part.
        factor: one arm in so many goes on.
        records: of the sweep's journal, of the kinds "begin" and "rung": see `decided`.
    """

    def __init__(self, cells: Sequence[Cell], factor: int, records: Iterable[Line]) -> None:
        self.factor = factor
        self.steps = [*check(cells, factor), 0]
        self.fresh = any(cell.cfg.force for cell in cells)
        self.arms: dict[str, list[Cell]] = {}
        for cell in cells:
            self.arms.setdefault(cell.arm, []).append(cell)
        self.alive = list(self.arms)
        self.decided: list[Rung] = []
        for rung in [] if self.fresh else decided(records, factor):
            self._again(rung)

    def _again(self, rung: Rung) -> None:
        """A decision of an earlier command stands where it was about the same arms."""
        if self.steps[:1] == [rung.step] and {*rung.losses} == {*self.alive}:
            self._go_on(rung)

    def _go_on(self, rung: Rung) -> None:
        self.decided.append(rung)
        self.alive = list(rung.kept)
        self.steps = self.steps[1:] if self.alive else []

    def left_out(self) -> dict[str, str]:
        """By title, the runs that go no further, and at which place their arm was."""
        return left_out(self.decided, {arm: [cell.title for cell in of] for arm, of in self.arms.items()})

    @classmethod
    def ahead(cls, cells: Iterable[Cell], factor: int, sweep: Sweep) -> Self:
        """As a command that begins now finds it."""
        records = [*sweep.records("begin", "rung"), {"kind": "begin"}]
        return cls([cell for cell in cells if not cell.refusal], factor, records)

    def stretches(self) -> list[tuple[float, float]]:
        """What is to come, rung by rung: the share of it that is trained then, and the share of the arms that train."""
        at = self.decided[-1].step if self.decided else 0
        last = next(cell.cfg.trainer.max_steps for of in self.arms.values() for cell in of)
        arms, found = len(self.alive), []
        for begin, end in pairwise([at, *self.steps[:-1], last]):
            found.append(((end - begin) / (last - at), arms / len(self.alive)))
            arms = math.ceil(arms / self.factor)
        return found

    def __str__(self) -> str:
        if not (ahead := [f"{step:,}" for step in self.steps[:-1]]):
            return ""
        share = "better half" if self.factor == 2 else f"best 1/{self.factor}"
        return f"halving: at step{'s' * (len(ahead) > 1)} {', '.join(ahead)} the {share} of the arms goes on"


class Halving(Course):
    """A source of tasks (`gptx.sweep.execute.loop.Source`) that decides between rungs.

    Args:
        words: what each task has besides its cell's overrides.
        book: the sweep's journal, into which decisions are written.
    """

    def __init__(
        self, cells: Sequence[Cell], words: Sequence[str], factor: int, book: JsonLog, records: Iterable[Line]
    ) -> None:
        super().__init__(cells, factor, records)
        self.words, self.book = words, book
        self.running: dict[Task, Cell] = {}
        self.failed: set[str] = set()
        self.begun = False  # whether the tasks of the step in hand have been given

    @property
    def done(self) -> bool:
        return not self.steps

    def more(self, room: int) -> list[Task]:
        """The next rung's, once all of the last one have ended. Here, and not in `told`, is decided who goes on: when
        the sweep is stopped, its runs end as well, and nothing is asked for any more."""
        while self.steps and not self.running:
            if not self.begun:
                self.begun = True
                self.running = {
                    self._task(cell): cell for arm in self.alive for cell in self.arms[arm] if self._lacks(cell)
                }
                if self.running:
                    return list(self.running)
            if self.steps[0]:
                self._decide()
            else:
                self.steps = []
        return []

    def told(self, end: End) -> None:
        cell = self.running.pop(end.task)
        if end.reason:
            self.failed.add(cell.arm)

    def look(self) -> list[Task]:
        return []

    def _task(self, cell: Cell) -> Task:
        task = cell.task(self.words)
        until = [f"runtime.until={self.steps[0]}"] if self.steps[0] else []
        onward = ["force=false"] if self.fresh and self.decided else []
        return replace(task, words=(*task.words, *until, *onward))

    def _lacks(self, cell: Cell) -> bool:
        """Whether a run does not stand yet where it is to stand."""
        if self.fresh and not self.decided:
            return True
        assert cell.folder is not None
        return not cell.folder.finished() and not (self.steps[0] and _loss(cell, self.steps[0]) is not None)

    def _decide(self) -> None:
        losses = {arm: None if arm in self.failed else _mean(self.arms[arm], self.steps[0]) for arm in self.alive}
        order = sorted(losses, key=lambda arm: math.inf if losses[arm] is None else losses[arm])  # type: ignore[arg-type,return-value]
        share = order[: math.ceil(len(order) / self.factor)]
        kept = [arm for arm in self.alive if arm in share and losses[arm] is not None]
        failed = tuple(arm for arm in self.alive if arm in self.failed)
        rung = Rung(self.steps[0], {arm: losses[arm] for arm in order}, tuple(kept), failed)
        self.book.write("rung", factor=self.factor, **asdict(rung))
        self._go_on(rung)
        self.begun = False


def _mean(cells: Sequence[Cell], step: int) -> float | None:
    losses = [_loss(cell, step) for cell in cells]
    if any(loss is None or not math.isfinite(loss) for loss in losses):
        return None
    return mean(loss for loss in losses if loss is not None)


def _loss(cell: Cell, step: int) -> float | None:
    """At a step; of a run that has ended before it (trainer.patience), the last one."""
    assert cell.folder is not None
    found = ((record.step, record.values.get(METRIC)) for record in metrics(cell.folder.path) if record.step <= step)
    losses = {at: value for at, value in found if value is not None}
    last = max(losses, default=None)
    return losses[last] if last is not None and (last == step or cell.folder.finished()) else None
