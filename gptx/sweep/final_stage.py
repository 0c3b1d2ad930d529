"""Trains what a sweep has chosen again, with seeds on which nothing was chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gptx.config.compositions import Compositions
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import Launcher
from gptx.sweep.execute.loop import TaskList, drive
from gptx.sweep.plan.cell_checks import check_cells
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.final_runs import final_cells, save_final_cells
from gptx.sweep.plan.seed_sets import SeedSet, seed_list
from gptx.sweep.state.records import CellRejected, SweepJournal
from gptx.terminal import echo


@dataclass(frozen=True)
class FinalStage:
    """The last runs of a sweep.

    Attributes:
        common: arguments that every run gets besides its own.
        follow: called with the folder of each run before it starts.
        retry: how often a failed run is tried again.
        keep_others: final runs of earlier commands are compared, too.
        cells: the cells, once `run` was called.
        failed: why runs failed, by title.
    """

    launcher: Launcher
    journal: SweepJournal
    common: Sequence[str]
    follow: Callable[[Path], None]
    retry: int
    compositions: Compositions | None = None
    keep_others: bool = False
    cells: list[Cell] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, winners: Sequence[Cell], seeds: Sequence[SeedSet]) -> None:
        """Train each winner with these seeds, except what has finished. ``winners``: one cell of each chosen arm."""
        self.cells.extend(final_cells(winners, seeds, self.compositions))
        check_cells(self.cells, self.launcher.machine)
        able = [cell for cell in self.cells if not cell.rejection]
        to_run = [cell for cell in able if not cell.done]
        for cell in to_run:
            cell.create_folder()
        save_final_cells(self.launcher.sweep, self.cells, keep_others=self.keep_others)
        for cell in self.cells:
            if cell.rejection:
                self.journal.write(CellRejected(title=cell.title, reason=cell.rejection))
        if to_run:
            echo(f"chosen: {' | '.join(cell.arm for cell in winners)}; training with {seed_list(seeds)}")
            self._train(to_run, len(able))

    def _train(self, cells: Sequence[Cell], total: int) -> None:
        dashboard, tasks = Dashboard(total, total - len(cells), {}, 0.0), []
        for cell in cells:
            task = cell.task(self.common)
            self.follow(task.folder)
            dashboard.add_run(task.folder, cell.config["trainer"]["max_steps"])
            tasks.append(task)
        failed = drive(TaskList(tasks), self.launcher, self.journal, dashboard, self.retry)
        self.failed.update({task.title: why for task, why in failed.items()})
