"""The folder of a sweep: its plan, its journal, and the files that a launcher adds.

A sweep is named by a hash of its runs, so the same command finds its folder again.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from gptx.errors import GptxError
from gptx.regular_files import open_regular, refuse_link
from gptx.runs.atomic_files import write_json
from gptx.runs.damaged_files import parse_json, readable
from gptx.runs.folder import held
from gptx.runs.json_codec import from_json, to_json
from gptx.runs.run_lists import SWEEPS
from gptx.runs.sweep_runs import PLAN
from gptx.sweep.state.records import (
    CommandStarted,
    JobsCancelled,
    JobsSubmitted,
    SweepJournal,
    SweepRecord,
    read_records,
)

_FORMER_KEYS = {"words": "overrides", "refusal": "rejection"}  # of a cell, in the plans of older versions

SomeRecord = TypeVar("SomeRecord", bound=SweepRecord)


class SweepKind(StrEnum):
    """The method that chooses the cells of a sweep: a grid of values, or a search by optuna."""

    GRID = "grid"
    OPTUNA = "optuna"


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """One combination of a sweep.

    Attributes:
        title: the overrides in which it differs from the other cells.
        arm: ``title`` without the seeds.
        run: ``study/run``, its folder in outputs/; None if it has none, because its config is wrong.
        overrides: ``python -m gptx.run *overrides`` trains this cell.
        rejection: the reason why the cell cannot run, in one line; empty if it can.
        note: a description of what `match` changed in the config; empty if nothing.
        processes: number of processes that its strategy uses.
        steps: number of training steps.
        is_final: it follows a choice: its arm is a winner, and its seed is one on which nothing was chosen.
    """

    title: str
    arm: str
    run: str | None = None
    overrides: tuple[str, ...] = ()
    rejection: str = ""
    note: str = ""
    processes: int | None = None
    steps: int = 0
    is_final: bool = False


@dataclass(frozen=True, kw_only=True)
class AutoSeeds:
    """The design of ``sweep.seeds=auto``, fixed before the first run.

    Attributes:
        min_seeds: seeds of every arm before the first decision.
        max_seeds: the most seeds of an arm.
        margin: smaller differences are equivalent; in nats per token.
        baseline: the arm that the others are compared with.
    """

    min_seeds: int
    max_seeds: int
    margin: float
    baseline: str


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """The plan of the last command of a sweep.

    Attributes:
        command: the full command line.
        launcher: option of hydra/launcher.
        lr: several learning rates are tried for every arm, and arms are compared at their best one (sweep.lr).
        has_final_cells: what is chosen trains again with other seeds, and these runs alone are compared.
        factor: the factor of the halving; 0: no halving.
        auto: how seeds are added until all arms are decided; None: the command gives the seeds.
    """

    study: str = ""
    command: str = ""
    kind: SweepKind = SweepKind.GRID
    launcher: str = "local"
    lr: bool = False
    has_final_cells: bool = False
    factor: int = 0
    auto: AutoSeeds | None = None
    cells: tuple[PlannedCell, ...] = ()


class Sweep:
    """``outputs/.sweeps/<study>-<hash>/``.

    Raises:
        ConfigError: the folder or the one above it is a symbolic link.
    """

    def __init__(self, outputs: Path, name: str) -> None:
        self.outputs, self.name = outputs, name
        self.path = outputs / SWEEPS / name
        refuse_link(self.path.parent)
        refuse_link(self.path)
        self.slurm_folder = self.path / "slurm"  # submitit's files and the reports of the jobs

    @property
    def plan(self) -> SweepPlan:
        """The plan of the last command; a plan without cells if there was no command.

        Raises:
            ConfigError: the file is damaged.
        """
        file = self.path / PLAN
        if not file.exists():
            return SweepPlan()
        with open_regular(file) as opened, readable(file):
            data = parse_json(opened.read())
            cells = [{_FORMER_KEYS.get(key, key): value for key, value in cell.items()} for cell in data["cells"]]
            return from_json(SweepPlan, data | {"cells": cells})

    def save_plan(self, plan: SweepPlan) -> None:
        """Write the plan completely or not at all."""
        write_json(self.path / PLAN, to_json(plan))

    def add_cell(self, cell: PlannedCell) -> None:
        """Add a run to the plan, as a search does. The caller holds the sweep's lock."""
        plan = self.plan
        if cell.run not in [known.run for known in plan.cells]:
            self.save_plan(replace(plan, cells=(*plan.cells, cell)))

    def journal(self, shared: bool = False) -> SweepJournal:
        """Open the journal for writing. ``shared``: another process may be writing to it at the same time."""
        return SweepJournal(self.path, shared)

    def records(self) -> Iterator[SweepRecord]:
        """The records of the journal."""
        return read_records(self.path)

    def records_of(self, kind: type[SomeRecord]) -> Iterator[SomeRecord]:
        """The records of one kind."""
        return (record for record in self.records() if isinstance(record, kind))

    def jobs(self) -> dict[str, str]:
        """{run: number of its newest Slurm job}."""
        return {run: job for record in self.records_of(JobsSubmitted) for run, job in record.jobs.items()}

    def cancelled_jobs(self) -> set[str]:
        """The Slurm jobs that ``gptx sweep cancel`` has cancelled."""
        return {job for record in self.records_of(JobsCancelled) for job in record.jobs}

    @contextmanager
    def work(self, plan: SweepPlan, force: bool = False) -> Iterator[SweepJournal]:
        """Hold the lock of the sweep, save its plan, and open its journal.

        Args:
            force: finished runs are trained again.

        Raises:
            ConfigError: another command is working on the sweep.
        """
        with held(self.path, "swept"):
            self.save_plan(plan)
            with self.journal() as journal:
                journal.write(CommandStarted(command=plan.command, force=force))
                yield journal


def sweeps(outputs: Path) -> list[Sweep]:
    """All sweeps, the newest last."""
    refuse_link(outputs / SWEEPS)
    found = [plan for plan in (outputs / SWEEPS).glob(f"*/{PLAN}") if not plan.parent.is_symlink()]
    plans = sorted(found, key=lambda plan: plan.lstat().st_mtime_ns)
    return [Sweep(outputs, plan.parent.name) for plan in plans]


def list_sweeps(outputs: Path) -> list[Sweep]:
    """All sweeps, the newest last.

    Raises:
        GptxError: there is no sweep.
    """
    if not (found := sweeps(outputs)):
        raise GptxError(f"no sweep in {outputs}; `gptx sweep seed=0,1` starts one")
    return found


def find_sweep(outputs: Path, given: str) -> Sweep:
    """The sweep with the name or the folder ``given``; the newest sweep if it is empty.

    Raises:
        GptxError: there is no such sweep.
    """
    folder = Path(given)
    if given and folder.parent.name == SWEEPS and (folder / PLAN).exists():
        return Sweep(folder.parent.parent, folder.name)
    found = {sweep.name: sweep for sweep in list_sweeps(outputs)}
    if given and given not in found:
        close = difflib.get_close_matches(given, found, 1, 0.4)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise GptxError(f"no sweep {given} in {outputs}; `gptx sweep list` lists them.{hint}")
    return found[given] if given else list(found.values())[-1]


def sweep_name(study: str, parts: Sequence[str]) -> str:
    """The name of a sweep. ``parts``: the names of its run folders, or of what else defines it, in any order."""
    return f"{study}-{hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()[:8]}"
