"""The source of a sweep with sweep.seeds=auto: returns the runs that are needed next, until all arms are decided."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.plan.auto_seeds import follow, seed_of
from gptx.sweep.plan.cells import Cell
from gptx.sweep.state.folder import AutoSeeds

if TYPE_CHECKING:  # needs scipy and pandas
    from gptx.statistics.sequential import SequentialState


class AutoSeedsSource:
    """A `gptx.sweep.execute.loop.Source` that adds seeds.

    Args:
        cells: all cells that can run, with all seeds.
        common: overrides that every run of the sweep gets.
        started: called with the folder of each run before it starts.
    """

    def __init__(
        self,
        auto: AutoSeeds,
        cells: Sequence[Cell],
        outputs: Path,
        common: Sequence[str],
        dashboard: Dashboard,
        started: Callable[[Path], None],
    ) -> None:
        self.auto, self.outputs, self.common, self.dashboard, self.started = auto, outputs, common, dashboard, started
        self.cells = {(cell.arm, seed_of(cell.planned())): cell for cell in cells}
        self.running: dict[Task, Cell] = {}
        self.failed: set[str] = set()  # titles
        self.stale = {cell.title for cell in cells if cell.config["force"]}
        self.state: SequentialState = self._follow()

    @property
    def done(self) -> bool:
        return not self.running and not self.state.needed

    def next_tasks(self, free_slots: int) -> list[Task]:
        """The runs that are needed and have not started."""
        busy = {id(cell) for cell in self.running.values()}
        started = {self._start(cell): cell for run in self.state.needed if id(cell := self.cells[run]) not in busy}
        self.running |= started
        return list(started)

    def ended(self, end: End) -> None:
        cell = self.running.pop(end.task)
        self.stale.discard(cell.title)
        if not end.outcome.reached_goal:
            self.failed.add(cell.title)
        self.state = self._follow()

    def tasks_to_stop(self) -> list[Task]:
        """None, although another run of the same arm may have failed: the same command may need the result."""
        return []

    def _follow(self) -> "SequentialState":
        planned = [cell.planned() for cell in self.cells.values()]  # its folder may change when it is created
        return follow(self.auto, planned, self.outputs, self.failed, self.stale)

    def _start(self, cell: Cell) -> Task:
        cell.create_folder()
        task = cell.task(self.common)
        self.dashboard.expect(task.folder, cell.config["trainer"]["max_steps"])
        self.started(task.folder)
        return task
