"""Typed records of a sweep's journal, with one reader (`read_records`) and one writer (`SweepJournal`).

The journal holds what is not in any run folder: commands, rejected cells, ends of runs, jobs, decisions and trials. Its
file has the format of a run's journal (`gptx.runs.json_log`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from gptx.runs import json_log
from gptx.runs.damaged_files import readable
from gptx.runs.json_codec import from_json, to_json


class AttemptOutcome(StrEnum):
    """How an attempt to train a run ended."""

    FINISHED = "finished"
    PAUSED = "paused"  # at the step of runtime.until or of a rung
    STOPPED = "stopped"  # with the sweep
    CANCELLED = "cancelled"  # in Slurm
    LIMIT_EXCEEDED = "limit_exceeded"  # sweep.timeout, sweep.memory, or the time limit of the job
    FAILED = "failed"
    REJECTED = "rejected"  # a wrong config

    @property
    def reached_goal(self) -> bool:
        """Whether the run reached the step that was requested."""
        return self in (AttemptOutcome.FINISHED, AttemptOutcome.PAUSED)

    @property
    def can_be_retried(self) -> bool:
        """Whether another attempt may reach a later step."""
        return not self.reached_goal and self is not AttemptOutcome.REJECTED


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """One line of the journal."""

    kind: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class CommandStarted(SweepRecord):
    """A command has started to work on the sweep. ``force``: it trains finished runs again."""

    kind: ClassVar[str] = "begin"
    command: str = ""
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class CellRejected(SweepRecord):
    """A cell, or a point of a search, cannot run. ``reason``: one line."""

    kind: ClassVar[str] = "refused"
    title: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RunEnded(SweepRecord):
    """An attempt at a run has ended.

    Attributes:
        run: name of the run folder.
        reason: why the run did not reach its end, in one line.
        retried: another attempt follows.
    """

    kind: ClassVar[str] = "end"
    title: str
    run: str
    outcome: AttemptOutcome = AttemptOutcome.FAILED
    reason: str = ""
    retried: bool = field(default=False, metadata={"key": "again"})


@dataclass(frozen=True, kw_only=True)
class JobsSubmitted(SweepRecord):
    """``jobs``: number of the Slurm job of each run (``study/run``)."""

    kind: ClassVar[str] = "submitted"
    jobs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class JobsCancelled(SweepRecord):
    """Jobs that ``gptx sweep cancel`` has cancelled. Slurm does not keep a record of them."""

    kind: ClassVar[str] = "cancelled"
    jobs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Rung(SweepRecord):
    """Record of a decision of a halving: which arms continue after step ``step``.

    Attributes:
        factor: the best 1/factor of the arms were promoted.
        losses: mean loss of every arm that was not dropped before, the best first; None if it has none.
        promoted: the arms that continue.
        failed: the arms with a failed run. The decision may change once that run succeeds.
    """

    kind: ClassVar[str] = "rung"
    factor: int
    step: int
    losses: dict[str, float | None]
    promoted: tuple[str, ...] = field(default=(), metadata={"key": "kept"})
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrialEnded(SweepRecord):
    """A trial of a search has ended. ``state``: optuna's name for its state; ``values``: its metrics."""

    kind: ClassVar[str] = "trial"
    number: int = 0
    title: str = ""
    run: str
    state: str
    values: tuple[float, ...] | None = None


_TYPES = (CommandStarted, CellRejected, RunEnded, JobsSubmitted, JobsCancelled, Rung, TrialEnded)
KINDS: dict[str, type[SweepRecord]] = {cls.kind: cls for cls in _TYPES}


class SweepJournal:
    """Appends records to the journal of a sweep.

    Args:
        shared: another process may be writing to it at the same time.
    """

    def __init__(self, folder: Path, shared: bool = False) -> None:
        self._log = json_log.JsonLog(folder, shared)

    def write(self, record: SweepRecord) -> None:
        """Append one record.

        Raises:
            RunFailed: the record could not be written.
        """
        self._log.write(record.kind, **to_json(record))

    def __enter__(self) -> "SweepJournal":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._log.close()


def read_records(folder: Path) -> Iterator[SweepRecord]:
    """All complete records of a sweep's journal, of the kinds that this version supports.

    Raises:
        ConfigError: the journal is damaged.
    """
    with readable(folder / json_log.NAME):
        found = [_record(line) for line in json_log.read(folder) if line["kind"] in KINDS]
    yield from found


def _record(line: json_log.Line) -> SweepRecord:
    if line["kind"] == RunEnded.kind and "outcome" not in line:
        line["outcome"] = _outcome_before_it_was_recorded(str(line["reason"]))
    return from_json(KINDS[line["kind"]], line)


def _outcome_before_it_was_recorded(reason: str) -> AttemptOutcome:
    """Infer the outcome from the message, for journals of older versions, which recorded only that."""
    if not reason:
        return AttemptOutcome.FINISHED
    return AttemptOutcome.STOPPED if reason.startswith("stopped (") else AttemptOutcome.FAILED
