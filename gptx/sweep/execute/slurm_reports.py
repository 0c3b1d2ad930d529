"""Find out how a Slurm job ended, from the reports of its nodes, the run folder, and the state that Slurm reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from gptx.regular_files import open_regular
from gptx.runs.atomic_files import write_json
from gptx.runs.damaged_files import parse_json
from gptx.runs.folder import RunFolder
from gptx.runs.json_codec import to_json
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.execute.slurm_cluster import JobState
from gptx.sweep.state.records import AttemptOutcome


@dataclass(frozen=True)
class NodeReport:
    """The report of a job on one node about one attempt.

    Attributes:
        outcome: how the attempt ended; None while it trains, and if the job is requeued or was cancelled.
        reason: one line.
        requeued_at_limit: the job reached its time limit and was requeued.
    """

    node: str
    outcome: AttemptOutcome | None = field(default=None, metadata={"key": "kind"})
    reason: str = ""
    requeued_at_limit: bool = False

    def write(self, folder: Path, job: str, restart: int, node_rank: int) -> None:
        """Write or replace the report of a node. ``restart``: number of requeues before this attempt."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{job}-{restart}-{node_rank}.json", to_json(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        with open_regular(path) as file:
            data: dict[str, Any] = parse_json(file.read())
        kind, reason = data.get("kind"), data.get("reason", "")
        if data.get("end"):  # written by an older version, with three flags instead of the kind
            kind = "limit_exceeded" if data.get("bound") else "rejected" if data["final"] else "failed"
            kind = kind if reason else "finished"
        limit = data.get("requeued_at_limit", data.get("limit", False))
        return cls(data["node"], AttemptOutcome(kind) if kind else None, reason, limit)


@dataclass(frozen=True)
class ReadReport:
    """A report of an attempt of a job. ``restart``: number of requeues before it."""

    restart: int
    node_rank: int
    report: NodeReport


def read_reports(folder: Path, job: str) -> list[ReadReport]:
    """All reports of a job, sorted by attempt and node."""
    found = []
    for path in folder.glob(f"{job}-*.json"):
        restart, node_rank = map(int, path.stem.split("-")[1:])
        found.append(ReadReport(restart, node_rank, NodeReport.read(path)))
    return sorted(found, key=lambda one: (one.restart, one.node_rank))


def job_end(task: Task, job: str, state: JobState, folder: Path) -> End | None:
    """How a job has ended, or None if it has not.

    Args:
        folder: with the reports of its nodes.
    """
    if state.active and state.name != "COMPLETING":
        return None
    reports = read_reports(folder, job)
    newest = [one.report for one in reports if one.restart == reports[-1].restart]
    ends = [one for one in newest if one.outcome is AttemptOutcome.LIMIT_EXCEEDED]  # on any node
    ends += [one for one in newest[:1] if one.outcome]
    if ends and ends[0].outcome:
        return End(task, ends[0].outcome, ends[0].reason)
    if state.active:  # it is ending, or about to be queued again
        return None
    if RunFolder(task.folder).finished():
        return End(task, AttemptOutcome.FINISHED)
    return _end_by_state(task, state, newest)


def _end_by_state(task: Task, state: JobState, reports: list[NodeReport]) -> End:
    """How a job without a report of its own has ended, from Slurm's state."""
    if state.name == "CANCELLED":
        return End(task, AttemptOutcome.CANCELLED, (reports[0].reason if reports else "") or "cancelled")
    where = f" on {reports[0].node}" if reports else ""
    known: Mapping[str, str] = {
        "": "Slurm has no record of its job any more, and the job wrote no report",
        "TIMEOUT": "Slurm killed it at its time limit before it had saved a checkpoint; try a larger "
        "hydra.launcher.signal_delay",
        "OUT_OF_MEMORY": f"out of memory{where}: Slurm killed it",
        "NODE_FAIL": f"its node failed{where}",
    }
    other = f"its job ended without an error message{where} (Slurm: {state.name}); see {task.folder}/logs"
    return End(task, AttemptOutcome.FAILED, known.get(state.name, other))
