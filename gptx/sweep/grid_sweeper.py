"""The grid sweeper: all combinations of a multirun command line are checked, then each runs in a separate process.

Finished runs are recognised by their run folders and are not trained again, so the same command resumes a sweep.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from gptx.cli import log
from gptx.config.compositions import Compositions
from gptx.errors import ConfigError
from gptx.runs.auto_seed_runs import AutoSeedRuns
from gptx.runs.provenance import outputs_option
from gptx.sweep.end_report import close
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import Launcher, make
from gptx.sweep.execute.loop import TaskList, drive
from gptx.sweep.plan import auto_seeds, learning_rates, matching
from gptx.sweep.plan.auto_report import AutoPreview, show_verdicts
from gptx.sweep.plan.cell_checks import check_cells
from gptx.sweep.plan.cells import Cell, compose_cells, with_overrides
from gptx.sweep.plan.halving import check_rungs
from gptx.sweep.plan.partial_keys import PartialKeys
from gptx.sweep.search.auto_source import AutoSeedsSource
from gptx.sweep.search.halving_source import HalvingSource
from gptx.sweep.state.folder import AutoSeeds, Sweep, SweepKind, SweepPlan, sweep_name
from gptx.sweep.state.records import CellRejected, SweepJournal
from gptx.sweep.sweep_overrides import combinations
from gptx.sweep.sweeper_base import SweeperBase, following
from gptx.terminal import echo
from gptx.training.run_location import Known

if TYPE_CHECKING:
    from gptx.hardware.device import Machine


@dataclass(frozen=True)
class _GridOutcome:
    """Why cells failed, and why halving has dropped others, by title."""

    failed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)


class GridSweeper(SweeperBase):
    """`python -m gptx.run -m attention=mha,gqa seed=0,1`."""

    kind = SweepKind.GRID

    def _run(self, overrides: list[str], of_sweep: list[str]) -> int:
        """Compose and check all cells, show the preview, then run them."""
        from gptx.sweep.plan.preview import preview

        compositions = Compositions()
        grid = self._applied(combinations(self._parse(overrides)), compositions)
        cells = compose_cells(grid, compositions)
        options = self._options(next(cell.overrides for cell in cells if cell.config), of_sweep)
        if options.sweep.lr:
            cells = compose_cells(learning_rates.with_rates(grid, options.sweep.lr), compositions)
        adds_seeds = auto_seeds.check_options(options, of_sweep, grid)
        if adds_seeds:
            cells = compose_cells(auto_seeds.with_seeds(grid, options.sweep.max_seeds), compositions)
        launcher = make(self.hydra.launcher)
        cells = _matched(cells, options, launcher.machine, compositions)
        sweep = Sweep(Path(options.paths.outputs), sweep_name(options.study, [cell.name for cell in cells]))
        launcher.open(sweep, options.sweep, len(cells))
        check_cells(cells, launcher.machine)
        if options.sweep.halving:
            _check_halving(cells, options.sweep.factor, launcher)
        plan = self._plan(cells, options)
        if adds_seeds:
            plan = _with_auto_seeds(plan, cells, options, launcher)
        needed = AutoPreview.of(plan.auto, cells, sweep.outputs) if plan.auto else None
        seconds = preview(cells, launcher, options, sweep, needed)
        if options.dry_run:
            return 2 if any(cell.rejection for cell in cells) and not options.sweep.skip_invalid else 0
        _check_rejected(cells, options)
        return self._execute(cells, options, launcher, plan, seconds)

    @staticmethod
    def _applied(grid: Sequence[Sequence[str]], compositions: Compositions) -> list[list[str]]:
        """The combinations, each without the keys that only others have."""
        keys = PartialKeys(grid, compositions)
        if remark := keys.remark():
            log.warning("%s", remark)
        return keys.all_applied(grid)

    def _execute(
        self, cells: list[Cell], options: DictConfig, launcher: Launcher, plan: SweepPlan, seconds: float
    ) -> int:
        """Run the cells that can run, compare the finished ones and list the others; returns the exit code."""
        sweep = launcher.sweep
        for cell in (cell for cell in cells if not (plan.auto or cell.rejection or cell.done)):
            cell.create_folder()
        with sweep.work(plan, any(cell.config.get("force") for cell in cells)) as journal:
            for cell in filter(lambda cell: cell.rejection, cells):
                journal.write(CellRejected(title=cell.title, reason=cell.rejection))
            if plan.auto:
                AutoSeedRuns(runs=tuple(run for cell in cells if (run := cell.planned().run))).save(sweep.path)
                outcome = self._add_seeds(plan.auto, cells, options, launcher, journal, seconds)
            else:
                outcome = self._train(cells, options, launcher, journal, seconds)
        finished = [cell.folder.path for cell in cells if cell.folder and cell.folder.finished()]
        if options.sweep.lr:
            finished = learning_rates.show_choices(sweep, outcome.dropped)
        code = close(finished, cells, outcome.failed, outcome.dropped, is_sequential=bool(plan.auto))
        if plan.auto:
            show_verdicts(plan.auto, [cell.planned() for cell in cells], sweep.outputs, outcome.failed)
        return code

    def _add_seeds(
        self,
        auto: AutoSeeds,
        cells: list[Cell],
        options: DictConfig,
        launcher: Launcher,
        journal: SweepJournal,
        seconds: float,
    ) -> _GridOutcome:
        """Run seeds until all arms are decided."""
        able = [cell for cell in cells if not cell.rejection]
        done = [cell.folder.path for cell in able if cell.folder and cell.done]
        dashboard = Dashboard(len(done), len(done), {}, seconds)
        with following(options, done) as follow:
            source = AutoSeedsSource(auto, able, launcher.sweep.outputs, self._common(), dashboard, follow)
            failed = {} if source.done else drive(source, launcher, journal, dashboard, options.sweep.retry)
        return _GridOutcome({task.title: why for task, why in failed.items()})

    def _train(
        self, cells: list[Cell], options: DictConfig, launcher: Launcher, journal: SweepJournal, seconds: float
    ) -> _GridOutcome:
        able = [cell for cell in cells if not cell.rejection]
        to_run = [cell for cell in able if not cell.done]
        if not to_run:
            return _GridOutcome()
        tasks = [cell.task(self._common()) for cell in to_run]
        if launcher.detached:
            with launcher:
                launcher.submit(tasks)
            echo(f"gptx sweep status {launcher.sweep.name}{outputs_option(launcher.sweep.outputs)} shows their status")
            return _GridOutcome()
        halving = self._halving(able, options, launcher, journal)
        steps = {task.folder: cell.config["trainer"]["max_steps"] for task, cell in zip(tasks, to_run, strict=True)}
        dashboard = Dashboard(len(able), len(able) - len(to_run), steps, seconds)
        with following(options, [cell.folder.path for cell in able if cell.folder]):
            failed = drive(halving or TaskList(tasks), launcher, journal, dashboard, options.sweep.retry)
        return _GridOutcome({task.title: why for task, why in failed.items()}, halving.dropped() if halving else {})

    def _halving(
        self, cells: list[Cell], options: DictConfig, launcher: Launcher, journal: SweepJournal
    ) -> HalvingSource | None:
        if not options.sweep.halving:
            return None
        records = list(launcher.sweep.records())
        return HalvingSource(cells, self._common(), options.sweep.factor, journal, records)


def _matched(
    cells: list[Cell], options: DictConfig, machine: "Machine | None", compositions: Compositions
) -> list[Cell]:
    """The cells, changed so that all arms have the same budget if `match` is set."""
    able = [cell for cell in cells if not cell.rejection]
    if options.variant.match == "none" or not able:
        return cells
    found = matching.match_budgets([cell.config for cell in able], options, machine)
    return _apply(cells, dict(zip(map(id, able), found, strict=True)), compositions)


def _apply(
    cells: Sequence[Cell], found: dict[int, matching.Matched | matching.Unmatched], compositions: Compositions
) -> list[Cell]:
    changed, known = [], Known()
    for cell in cells:
        match = found.get(id(cell))
        if isinstance(match, matching.Matched):
            changed.append(with_overrides(cell, match.overrides, match.note, compositions, known))
            continue
        if match:
            cell.rejection = match.reason
        changed.append(cell)
    return changed


def _with_auto_seeds(plan: SweepPlan, cells: Sequence[Cell], options: DictConfig, launcher: Launcher) -> SweepPlan:
    """The plan with the design of sweep.seeds=auto."""
    if launcher.detached:
        raise ConfigError(
            "sweep.seeds=auto must watch the runs; use hydra.launcher.wait=true, with which the command stays"
        )
    auto = auto_seeds.auto_seeds(cells, options)
    if warning := auto_seeds.changed_design(auto, plan.cells, launcher.sweep):
        log.warning("%s", warning)
    return replace(plan, auto=auto)


def _check_halving(cells: Sequence[Cell], factor: int, launcher: Launcher) -> None:
    if launcher.detached:
        raise ConfigError(
            "sweep.halving must watch the runs; use hydra.launcher.wait=true, with which the command stays"
        )
    check_rungs([cell for cell in cells if not cell.rejection], factor)


def _check_rejected(cells: Sequence[Cell], options: DictConfig) -> None:
    """Nothing starts while a cell is rejected, unless sweep.skip_invalid allows it."""
    rejected, total = sum(bool(cell.rejection) for cell in cells), len(cells)
    if rejected == total:
        raise ConfigError(f"all {total} combinations are rejected (see above)")
    if rejected and not options.sweep.skip_invalid:
        raise ConfigError(
            f"{rejected} of {total} combinations are rejected (see above), so nothing was started; correct them or use "
            "sweep.skip_invalid=true to run the others"
        )
