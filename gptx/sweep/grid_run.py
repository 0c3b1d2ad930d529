"""Runs the cells of a grid, then those that follow a choice, and prints the comparison."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import DictConfig

from gptx.config.compositions import Compositions
from gptx.runs.auto_seed_runs import AutoSeedRuns
from gptx.runs.provenance import outputs_option
from gptx.sweep.end_report import UNTIL_DECIDED, close
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import Launcher, Task
from gptx.sweep.execute.loop import Source, TaskList, drive
from gptx.sweep.final_stage import FinalStage
from gptx.sweep.plan import learning_rates
from gptx.sweep.plan.auto_report import show_verdicts
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.final_runs import ComparedRuns, compared_runs, keep_final_cells
from gptx.sweep.plan.seed_sets import SeedSet
from gptx.sweep.search.auto_source import AutoSeedsSource
from gptx.sweep.search.halving_source import HalvingSource
from gptx.sweep.state.folder import AutoSeeds, SweepPlan
from gptx.sweep.state.records import CellRejected, SweepJournal
from gptx.sweep.sweeper_base import following
from gptx.terminal import echo


@dataclass(frozen=True)
class GridRun:
    """A grid whose cells are checked.

    Attributes:
        seconds: estimated time of the full sweep; 0 if unknown.
        common: arguments that every run gets besides its own.
        final_seeds: the seeds with which the chosen arms train again; none if nothing is chosen.
        failed: why runs failed, by title.
        dropped: why halving has dropped runs, by title.
    """

    cells: list[Cell]
    options: DictConfig
    launcher: Launcher
    plan: SweepPlan
    seconds: float
    common: Sequence[str]
    final_seeds: Sequence[SeedSet]
    compositions: Compositions
    failed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def able(self) -> list[Cell]:
        """The cells that can run."""
        return [cell for cell in self.cells if not cell.rejection]

    def execute(self) -> int:
        """Run the cells that can run, compare the finished ones and list the others; returns the exit code."""
        sweep = self.launcher.sweep
        if not self.plan.auto:
            _create_folders(self.able)
        plan, cells = keep_final_cells(self.plan, sweep.plan), self.cells
        shown = [cell.folder.path for cell in self.able if cell.folder and (cell.done or not plan.auto)]
        trains = bool(self.final_seeds) or not all(cell.done for cell in self.able)
        needed = trains and not self.launcher.detached
        with following(self.options, shown, sweep, needed=needed) as follow:  # until the report is written
            with sweep.work(plan, any(cell.config.get("force") for cell in cells)) as journal:
                for cell in filter(lambda cell: cell.rejection, cells):
                    journal.write(CellRejected(title=cell.title, reason=cell.rejection))
                if plan.auto:
                    AutoSeedRuns(runs=tuple(run for cell in cells if (run := cell.planned().run))).save(sweep.path)
                    self._add_seeds(plan.auto, journal, follow)
                else:
                    winners = self._choose(journal)
                    cells = [*cells, *self._train_again(winners, journal, follow)]
            return self._close(cells)

    def _close(self, cells: Sequence[Cell]) -> int:
        sweep = self.launcher.sweep
        finished = [cell.folder.path for cell in cells if cell.folder and cell.folder.finished()]
        compared = ComparedRuns(finished, UNTIL_DECIDED if self.plan.auto else "")
        if self.options.sweep.lr:
            compared = ComparedRuns(learning_rates.show_choices(sweep))
        elif self.final_seeds:
            compared = compared_runs(sweep, finished)
        code = close(compared, cells, self.failed, self.dropped, sweep)
        if self.plan.auto:
            show_verdicts(self.plan.auto, [cell.planned() for cell in cells], sweep.outputs, self.failed)
        return code

    def _add_seeds(self, auto: AutoSeeds, journal: SweepJournal, follow: Callable[[Path], None]) -> None:
        """Run seeds until all arms are decided."""
        done = sum(cell.done for cell in self.able)
        dashboard = Dashboard(done, done, {}, self.seconds)
        source = AutoSeedsSource(auto, self.able, self.launcher.sweep.outputs, self.common, dashboard, follow)
        if not source.done:
            self._drive(source, journal, dashboard)

    def _choose(self, journal: SweepJournal) -> list[Cell]:
        """Run the cells; returns one of each arm that was chosen: none if nothing is chosen."""
        if not self.options.sweep.halving:
            self._train(self.able, journal)
            if not self.options.sweep.lr:
                return []
            planned = replace(self.plan, cells=tuple(cell.planned() for cell in self.able))
            return learning_rates.winners(self.able, planned, self.launcher.sweep.outputs)
        records = list(self.launcher.sweep.records())
        halving = HalvingSource(self.able, self.common, self.options.sweep.factor, journal, records)
        self._train(self.able, journal, halving)
        self.dropped.update(halving.dropped())
        left = [cells[0] for arm, cells in halving.arms.items() if arm in halving.remaining]
        return [cell for cell in left if halving.rungs and cell.arm not in halving.failed]

    def _train_again(
        self, winners: Sequence[Cell], journal: SweepJournal, follow: Callable[[Path], None]
    ) -> list[Cell]:
        """Train the winners with the final seeds; returns these cells."""
        if not (winners and self.final_seeds):
            return []
        sweep, by_rate = self.options.sweep, bool(self.options.sweep.lr)
        stage = FinalStage(
            self.launcher, journal, self.common, follow, sweep.retry, self.compositions, keep_others=by_rate
        )
        stage.run(winners, self.final_seeds)
        self.failed.update(stage.failed)
        return stage.cells

    def _train(self, cells: Sequence[Cell], journal: SweepJournal, source: Source | None = None) -> None:
        """Run the cells that are not done. ``source``: decides which of them; None: all."""
        to_run = [cell for cell in cells if not cell.done]
        if not to_run:
            return
        tasks = [cell.task(self.common) for cell in to_run]
        if self.launcher.detached:
            self._submit(tasks)
            return
        steps = {task.folder: cell.config["trainer"]["max_steps"] for task, cell in zip(tasks, to_run, strict=True)}
        dashboard = Dashboard(len(cells), len(cells) - len(to_run), steps, self.seconds)
        self._drive(source or TaskList(tasks), journal, dashboard)

    def _submit(self, tasks: list[Task]) -> None:
        """Hand the tasks over to a launcher whose runs continue after this command."""
        with self.launcher:
            self.launcher.submit(tasks)
        sweep = self.launcher.sweep
        echo(f"gptx sweep status {sweep.name}{outputs_option(sweep.outputs)} shows their status")

    def _drive(self, source: Source, journal: SweepJournal, dashboard: Dashboard) -> None:
        failed = drive(source, self.launcher, journal, dashboard, self.options.sweep.retry)
        self.failed.update({task.title: why for task, why in failed.items()})


def _create_folders(cells: Sequence[Cell]) -> None:
    for cell in cells:
        if not cell.done:
            cell.create_folder()
