"""The grid sweeper: all combinations of a multirun command line are checked, then each runs in a separate process.

Finished runs are recognised by their run folders and are not trained again, so the same command resumes a sweep.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from gptx.cli import log
from gptx.config.compositions import Compositions
from gptx.errors import ConfigError
from gptx.sweep.execute.launcher import Launcher, make
from gptx.sweep.grid_run import GridRun
from gptx.sweep.plan import auto_seeds, learning_rates
from gptx.sweep.plan.auto_report import AutoPreview
from gptx.sweep.plan.cell_checks import check_cells
from gptx.sweep.plan.cells import Cell, compose_cells
from gptx.sweep.plan.final_runs import FinalSeeds
from gptx.sweep.plan.halving import check_rungs
from gptx.sweep.plan.matched_cells import matched_cells
from gptx.sweep.plan.partial_keys import PartialKeys
from gptx.sweep.plan.seed_sets import with_seed_sets
from gptx.sweep.state.folder import Sweep, SweepKind, SweepPlan, sweep_name
from gptx.sweep.sweep_overrides import combinations
from gptx.sweep.sweeper_base import SweeperBase


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
        final_seeds = FinalSeeds.of(grid, options, of_sweep)
        launcher = make(self.hydra.launcher)
        _check_watching(launcher, options)
        if options.sweep.lr:
            tried = with_seed_sets(grid, final_seeds.tuning)
            cells = compose_cells(learning_rates.with_rates(tried, options.sweep.lr), compositions)
        adds_seeds = auto_seeds.check_options(options, of_sweep, grid)
        if adds_seeds:
            cells = compose_cells(auto_seeds.with_seeds(grid, options.sweep.max_seeds), compositions)
        cells = matched_cells(cells, options, launcher.machine, compositions)
        sweep = Sweep(Path(options.paths.outputs), sweep_name(options.study, [cell.name for cell in cells]))
        launcher.open(sweep, options.sweep, len(cells))
        check_cells(cells, launcher.machine)
        if options.sweep.halving:
            check_rungs([cell for cell in cells if not cell.rejection], options.sweep.factor)
        plan = replace(self._plan(cells, options), has_final_cells=bool(final_seeds.sets))
        if adds_seeds:
            plan = _with_auto_seeds(plan, cells, options, sweep)
        needed = AutoPreview.of(plan.auto, cells, sweep.outputs) if plan.auto else None
        seconds = preview(cells, launcher, options, sweep, needed, final_seeds.note)
        if options.dry_run:
            return 2 if any(cell.rejection for cell in cells) and not options.sweep.skip_invalid else 0
        _check_rejected(cells, options)
        run = GridRun(cells, options, launcher, plan, seconds, self._common(), final_seeds.sets, compositions)
        return run.execute()

    @staticmethod
    def _applied(grid: Sequence[Sequence[str]], compositions: Compositions) -> list[list[str]]:
        """The combinations, each without the keys that only others have."""
        keys = PartialKeys(grid, compositions)
        if remark := keys.remark():
            log.warning("%s", remark)
        return keys.all_applied(grid)


def _check_watching(launcher: Launcher, options: DictConfig) -> None:
    """Reject a launcher that only submits the runs if results decide what is run next."""
    decides = {
        "sweep.lr": options.sweep.lr,
        "sweep.halving": options.sweep.halving,
        "sweep.seeds=auto": options.sweep.seeds,
    }
    if launcher.detached and (given := next((key for key, value in decides.items() if value), "")):
        raise ConfigError(f"{given} must watch the runs; use hydra.launcher.wait=true, with which the command stays")


def _with_auto_seeds(plan: SweepPlan, cells: Sequence[Cell], options: DictConfig, sweep: Sweep) -> SweepPlan:
    """The plan with the design of sweep.seeds=auto."""
    auto = auto_seeds.auto_seeds(cells, options)
    if warning := auto_seeds.changed_design(auto, plan.cells, sweep):
        log.warning("%s", warning)
    return replace(plan, auto=auto)


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
