"""The runs that follow a choice: arms at their chosen learning rates, or the winners of a halving or a search, train
with seeds on which nothing was chosen. Only these runs are compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from omegaconf import DictConfig, OmegaConf

from gptx.config.compositions import Compositions
from gptx.config.overrides import key_of
from gptx.errors import ConfigError
from gptx.runs.folder import RunFolder
from gptx.runs.tuning_runs import TuningRuns
from gptx.sweep.plan.cells import Cell, compose_cells
from gptx.sweep.plan.seed_sets import SeedSet, other_seeds, replace_seeds, seed_list, seed_sets
from gptx.sweep.state.folder import PlannedCell, Sweep, SweepPlan


@dataclass(frozen=True)
class FinalSeeds:
    """The seeds of a sweep that chooses something.

    Attributes:
        tuning: the seeds with which learning rates are tried; none without sweep.lr.
        sets: the seeds of the final runs; none if nothing is chosen or the winners do not train again.
        note: a line for the preview.
    """

    tuning: tuple[SeedSet, ...] = ()
    sets: tuple[SeedSet, ...] = ()
    note: str = ""

    @classmethod
    def of(cls, grid: Sequence[Sequence[str]], options: DictConfig, of_sweep: Sequence[str]) -> Self:
        """``grid``: its combinations. ``of_sweep``: the overrides that are options of the sweep.

        Raises:
            ConfigError: options contradict each other.
        """
        sweep, seeds = options.sweep, seed_sets(grid, options.seed)
        for key, needed in {"sweep.lr_seeds": "sweep.lr", "sweep.fresh_seeds": "sweep.halving"}.items():
            if key in map(key_of, of_sweep) and not OmegaConf.select(options, needed):
                raise ConfigError(f"{key} is an option of {needed}; add that or remove it")
        if sweep.lr and sweep.halving:
            raise ConfigError("sweep.lr and sweep.halving both choose what is trained; give one of them")
        if sweep.lr:
            tuning = tuple(other_seeds(seeds, sweep.lr_seeds))
            tried = f"each arm tries {len(sweep.lr)} learning rates with {seed_list(tuning)}, then trains at the best"
            return cls(tuning, tuple(seeds), f"{tried} with {seed_list(seeds)}; only the latter runs are compared")
        if sweep.halving and sweep.fresh_seeds and len({tuple(replace_seeds(one, ())) for one in grid}) > 1:
            fresh = tuple(other_seeds(seeds, sweep.fresh_seeds))
            again = f"the arms that are left train again with {seed_list(fresh)}; only these runs are compared"
            return cls((), fresh, again)
        return cls()


def final_cells(winners: Iterable[Cell], seeds: Sequence[SeedSet], compositions: Compositions | None) -> list[Cell]:
    """The cells of the winners with these seeds. ``winners``: one cell of each chosen arm."""
    cells: list[Cell] = []
    for winner in winners:
        for given in seeds:
            [cell] = compose_cells([replace_seeds(winner.overrides, given)], compositions)
            cell.arm, cell.title = winner.arm, " ".join(filter(None, (winner.arm, *given)))
            cell.note, cell.memory_bytes = winner.note, winner.memory_bytes
            cells.append(cell)
    return cells


def save_final_cells(sweep: Sweep, cells: Iterable[Cell], *, keep_others: bool) -> None:
    """Write the final cells to the plan. The caller holds the sweep's lock.

    Args:
        keep_others: final cells of earlier commands stay final. Otherwise only these are compared.
    """
    plan, final = sweep.plan, [replace(cell.planned(), is_final=True) for cell in cells]
    runs = {cell.run for cell in final}
    others = (cell if keep_others else replace(cell, is_final=False) for cell in plan.cells if cell.run not in runs)
    sweep.save_plan(replace(plan, cells=(*others, *final)))


def keep_final_cells(plan: SweepPlan, before: SweepPlan) -> SweepPlan:
    """The plan with the final cells of an earlier command of the same sweep."""
    known = {cell.run for cell in plan.cells}
    return replace(plan, cells=(*plan.cells, *(one for one in before.cells if one.is_final and one.run not in known)))


@dataclass(frozen=True)
class ComparedRuns:
    """Finished runs of a sweep. ``no_verdict``: why they give no verdict about the arms; empty if they do."""

    runs: list[Path]
    no_verdict: str = ""


def compared_runs(sweep: Sweep, finished: Sequence[Path]) -> ComparedRuns:
    """The final ones of the finished runs; the others are recorded as left out. Without a final one, all runs without a
    verdict: the arms were chosen on their results."""
    final = {sweep.outputs / cell.run for cell in sweep.plan.cells if cell.is_final and cell.run}
    compared = [run for run in finished if run in final]
    if not compared:
        return ComparedRuns(list(finished), "no verdict: no chosen arm has finished a run with fresh seeds")
    record_tuning(sweep, compared, [run for run in finished if run not in final])
    return ComparedRuns(compared)


def record_tuning(sweep: Sweep, compared: Iterable[Path], left_out: Iterable[Path]) -> None:
    """Write which runs are compared and which only served a choice."""
    TuningRuns(compared=_names(sweep, compared), left_out=_names(sweep, left_out)).save(sweep.path)


def _names(sweep: Sweep, runs: Iterable[Path]) -> tuple[str, ...]:
    return tuple(run.relative_to(sweep.outputs).as_posix() for run in runs)


def finished_runs(cells: Iterable[PlannedCell], outputs: Path) -> list[Path]:
    """The folders of the cells whose runs have finished."""
    folders = (outputs / cell.run for cell in cells if cell.run)
    return [folder for folder in folders if RunFolder(folder).finished()]
