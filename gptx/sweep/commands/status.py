"""The status of every cell of a sweep, from the run folders, the sweep's journal, and Slurm."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from gptx.errors import ConfigError
from gptx.runs import journal
from gptx.runs.damaged_files import readable
from gptx.runs.folder import RunFolder
from gptx.runs.records import RunStatus
from gptx.sweep.execute import slurm_cluster
from gptx.sweep.execute.dashboard import RunProgress
from gptx.sweep.execute.launcher import Task
from gptx.sweep.execute.slurm_cluster import JobState
from gptx.sweep.execute.slurm_reports import job_end
from gptx.sweep.plan import auto_seeds
from gptx.sweep.plan.halving import decisions, dropped
from gptx.sweep.state.folder import PlannedCell, Sweep, SweepKind, SweepPlan
from gptx.sweep.state.records import AttemptOutcome, CommandStarted, RunEnded, TrialEnded


class CellStatus(StrEnum):
    """The status of a cell of a started sweep, in the order in which statuses are listed."""

    RUNNING = "running"
    WAITING = "waiting"
    FINISHED = "finished"
    DROPPED = "dropped"  # by halving, or not needed with sweep.seeds=auto
    PRUNED = "pruned"  # by a search
    FAILED = "failed"
    STOPPED = "stopped"
    REJECTED = "rejected"
    NOT_STARTED = "not started"


_IDLE = (CellStatus.WAITING, CellStatus.STOPPED, CellStatus.NOT_STARTED)


@dataclass(frozen=True)
class StatusRow:
    """The status of one cell.

    Attributes:
        folder: the run folder; None if the cell is rejected.
        detail: its progress, or why it did not finish.
        job: number of its Slurm job, or "".
    """

    title: str
    folder: Path | None
    status: CellStatus
    detail: str = ""
    job: str = ""

    @property
    def active(self) -> bool:
        """Whether the run trains now, or will start without another command."""
        return self.status in (CellStatus.RUNNING, CellStatus.WAITING)


def status_rows(sweep: Sweep) -> Iterator[StatusRow]:
    """The status of every cell, in the order of the plan."""
    plan = sweep.plan  # read once: a search adds cells to it
    dropped_cells, pruned = dropped_by_halving(sweep, plan), _pruned_runs(sweep)
    rows = list(_run_statuses(sweep, plan))
    if plan.auto:
        failed = {row.title for row in rows if row.status is CellStatus.FAILED}
        state = auto_seeds.follow(plan.auto, plan.cells, sweep.outputs, failed)
        dropped_cells = auto_seeds.not_needed(plan.auto, state, plan.cells)
    for cell, one in zip(plan.cells, rows, strict=True):
        if one.status in _IDLE and one.title in dropped_cells:
            yield replace(one, status=CellStatus.DROPPED, detail=dropped_cells[one.title])
        elif one.status in _IDLE and one.folder and one.folder.name in pruned:
            yield replace(one, status=CellStatus.PRUNED, detail=f"at {_progress(cell, one.folder)}")
        else:
            yield one


def dropped_by_halving(sweep: Sweep, plan: SweepPlan) -> dict[str, str]:
    """{title of a cell that halving has dropped: reason}."""
    titles: dict[str, list[str]] = {}
    for cell in plan.cells:
        titles.setdefault(cell.arm, []).append(cell.title)
    return dropped(decisions(sweep.records(), plan.factor), titles)


def _pruned_runs(sweep: Sweep) -> set[str]:
    """The runs whose newest trial was pruned."""
    states = {trial.run: trial.state for trial in sweep.records_of(TrialEnded)}
    return {run for run, state in states.items() if state == "PRUNED"}


def _failures(sweep: Sweep, kind: SweepKind) -> dict[str, RunEnded]:
    """{run: how it ended}, for runs that did not reach their goal and are not retried.

    A command for a grid runs all unfinished cells again, so only failures after its start count. A search never runs
    a cell twice.
    """
    found: dict[str, RunEnded] = {}
    for record in sweep.records():
        if isinstance(record, CommandStarted) and kind is SweepKind.GRID:
            found = {}
        elif isinstance(record, RunEnded) and not record.retried:
            found[record.run] = record
    return {run: end for run, end in found.items() if not end.outcome.reached_goal}


def _run_statuses(sweep: Sweep, plan: SweepPlan) -> Iterator[StatusRow]:
    """The status of every cell, without the decisions of a halving or a search."""
    jobs = sweep.jobs()
    states = slurm_cluster.job_states(jobs.values()) if jobs else {}
    in_progress = journal.locked(sweep.path)  # a command is working on the sweep
    cancelled, failures = sweep.cancelled_jobs(), _failures(sweep, plan.kind)
    for cell in plan.cells:
        if cell.rejection or not cell.run:
            yield StatusRow(cell.title, None, CellStatus.REJECTED, cell.rejection)
            continue
        folder, job = sweep.outputs / cell.run, jobs.get(cell.run, "")
        try:
            with readable(folder / journal.NAME):
                if job:
                    state = states[job]
                    state = JobState("CANCELLED") if job in cancelled and not state.active else state
                    status = _of_job(cell, folder, job, state, sweep.slurm_folder)
                else:
                    status = _without_job(cell, folder, failures.get(folder.name), in_progress)
        except ConfigError as error:  # the other cells are shown nevertheless
            status = StatusRow(cell.title, folder, CellStatus.FAILED, str(error), job)
        yield status


def _of_job(cell: PlannedCell, folder: Path, job: str, state: JobState, reports: Path) -> StatusRow:
    """The status of a run that has a Slurm job."""

    def row(status: CellStatus, detail: str) -> StatusRow:
        return StatusRow(cell.title, folder, status, detail, job)

    end = job_end(Task(cell.title, folder, (), 1, ""), job, state, reports)
    started = (folder / journal.NAME).exists()
    if end and end.outcome.reached_goal:
        if RunFolder(folder).finished():
            return row(CellStatus.FINISHED, _loss(folder))
        return row(CellStatus.STOPPED, f"at {_progress(cell, folder)}, as runtime.until asked")
    forgotten = end and not state.name and started and journal.status(folder) is RunStatus.INTERRUPTED
    if state.name == "CANCELLED" or forgotten:
        where = f"at {_progress(cell, folder)}" if started else "before it started"
        return row(CellStatus.STOPPED, where)
    if end:
        return row(CellStatus.FAILED, end.reason)
    if state.name in ("RUNNING", "COMPLETING"):
        ending = ", ending" if state.name == "COMPLETING" else ""
        return row(CellStatus.RUNNING, f"{_progress(cell, folder)} on {state.nodes}{ending}")
    reason = {"BeginTime": "requeued", "": state.name.lower()}.get(state.pending_reason, state.pending_reason)
    return row(CellStatus.WAITING, f"at {_progress(cell, folder)}, {reason}" if started else reason)


def _without_job(cell: PlannedCell, folder: Path, failure: RunEnded | None, in_progress: bool) -> StatusRow:
    """The status of a run on this machine. ``in_progress``: a command is working on the sweep."""

    def row(status: CellStatus, detail: str = "") -> StatusRow:
        return StatusRow(cell.title, folder, status, detail)

    started = (folder / journal.NAME).exists()
    locked = started and journal.locked(folder)  # checked first: a run writes its result before it frees the lock
    if RunFolder(folder).finished():
        return row(CellStatus.FINISHED, _loss(folder))
    run_status = journal.status(folder) if started else None
    if locked or run_status is RunStatus.RUNNING:
        return row(CellStatus.RUNNING, _progress(cell, folder))
    if failure and failure.outcome is not AttemptOutcome.STOPPED:
        return row(CellStatus.FAILED, failure.reason)
    if in_progress:
        return row(CellStatus.WAITING, f"at {_progress(cell, folder)}" if started else "")
    if run_status is RunStatus.FAILED:
        result = RunFolder(folder).result()
        return row(CellStatus.FAILED, (result and result.error) or "")
    return row(CellStatus.STOPPED, f"at {_progress(cell, folder)}") if started else row(CellStatus.NOT_STARTED)


def _progress(cell: PlannedCell, folder: Path) -> str:
    progress = RunProgress(folder)
    progress.read()
    loss = f", val loss {progress.loss}" if progress.loss else ""
    return f"step {progress.step:,} of {cell.steps:,}{loss}"


def _loss(folder: Path) -> str:
    result = RunFolder(folder).result()
    return f"val loss {result.val_loss if result and result.val_loss is not None else math.nan:.4f}"
