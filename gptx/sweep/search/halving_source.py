"""The source of a sweep with halving: returns the runs of one rung as tasks, and drops arms when all of these runs have
ended."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.halving import HalvingState, loss_at
from gptx.sweep.state.records import SweepJournal, SweepRecord


class HalvingSource(HalvingState):
    """A `gptx.sweep.execute.loop.Source` for a grid with halving.

    Args:
        common: overrides that every run of the sweep gets.
        journal: the sweep's journal, to which decisions are written.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        common: Sequence[str],
        factor: int,
        journal: SweepJournal,
        records: Iterable[SweepRecord],
    ) -> None:
        super().__init__(cells, factor, records)
        self.common, self.journal = common, journal
        self.running: dict[Task, Cell] = {}
        self.failed: set[str] = set()  # arms
        self.started = False  # whether the tasks up to the next rung have been returned

    @property
    def done(self) -> bool:
        return not self.steps

    def next_tasks(self, free_slots: int) -> list[Task]:
        """The tasks up to the next rung, once all earlier ones have ended. The decision is made here rather than in
        `ended`: when the sweep is interrupted, its runs end too, but this method is not called again."""
        while self.steps and not self.running:
            if not self.started:
                self.started = True
                cells = [cell for arm in self.remaining for cell in self.arms[arm] if self._needs_training(cell)]
                self.running = {self._task(cell): cell for cell in cells}
                if self.running:
                    return list(self.running)
            if self.steps[0]:
                self._decide()
            else:
                self.steps = []
        return []

    def ended(self, end: End) -> None:
        cell = self.running.pop(end.task)
        if not end.outcome.reached_goal:
            self.failed.add(cell.arm)

    def tasks_to_stop(self) -> list[Task]:
        return []

    def _task(self, cell: Cell) -> Task:
        task = cell.task(self.common)
        until = [f"runtime.until={self.steps[0]}"] if self.steps[0] else []
        keep = ["force=false"] if self.force and self.rungs else []
        return replace(task, overrides=(*task.overrides, *until, *keep))

    def _needs_training(self, cell: Cell) -> bool:
        """Whether a run has not reached the next rung yet."""
        if self.force and not self.rungs:
            return True
        assert cell.folder is not None
        return not cell.folder.finished() and not (self.steps[0] and loss_at(cell, self.steps[0]) is not None)

    def _decide(self) -> None:
        rung = self.decide(self.failed)
        self.journal.write(rung)
        self.apply(rung)
        self.started = False
