"""Typed records of a run: the lines of its journal, and its result.

`read_record` and `write_record` are the reader and the writer of a line of the journal, `read_result` and
`write_result` those of result.json. Keys that this version does not know are ignored.
"""

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from gptx.regular_files import open_regular
from gptx.runs.atomic_files import JsonObject, write_json
from gptx.runs.damaged_files import parse_json
from gptx.runs.json_codec import from_json, to_json
from gptx.runs.measurements import Measurements
from gptx.runs.preflight_facts import DataFacts, GitState, Hardware, ResumeSourceRecord, RunSetup

# The version of the definitions of validation metrics. A run keeps the version that it was started with.
# 1: bits per byte counted the nats, but no bytes of end-of-text tokens; trainer.val_tokens=0 left out the last
#    incomplete row.
# 2: an end-of-text token counts for the two bytes of a blank line, and all tokens are predicted. A result had the best
#    of all validations on the whole validation set.
# 3: a result has the last validation on the report half; the selection half decides which weights are the best.
VALIDATION = 3


class RunStatus(StrEnum):
    """The status of a run. KILLED: its journal has no end record and no process trains it."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"


class RunEndReason(StrEnum):
    """Why the training of a run ended."""

    COMPLETED = "completed"  # all of trainer.max_steps
    EARLY_STOPPED = "early_stopped"  # trainer.patience
    UNTIL = "until"  # runtime.until
    SIGNAL = "signal"
    DIVERGED = "diverged"  # a loss or too many gradients were not finite
    ERROR = "error"

    @property
    def status(self) -> RunStatus:
        """The status of a run that ended for this reason."""
        if self in (RunEndReason.COMPLETED, RunEndReason.EARLY_STOPPED):
            return RunStatus.FINISHED
        failed = self in (RunEndReason.ERROR, RunEndReason.DIVERGED)
        return RunStatus.FAILED if failed else RunStatus.INTERRUPTED


@dataclass(frozen=True, kw_only=True)
class RunDescription(RunSetup):
    """The facts about a run that its start record and its result share.

    Attributes:
        uid: a random id, new for each start and unchanged by a resume.
        identity: a hash of the config; a repeated run has the same one.
        identity_scheme: version of the rules of that hash.
        revisions: id -> revision of each built-in class that the config names.
        validation: how the run is validated, see `VALIDATION`.
        variant: the option of each axis.
        config: the composed config, without ``variant``.
        versions: versions of Python and of the packages that may affect a result.
        failed_checks: properties that the user's own variants lack, one line each (``runtime.unproven``).
    """

    uid: str = ""
    identity: str = ""
    identity_scheme: int = 1
    revisions: dict[str, int] = field(default_factory=dict)
    validation: int = 1
    name: str = ""
    study: str = ""
    variant: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    git: GitState = field(default_factory=GitState)
    versions: dict[str, str] = field(default_factory=dict)
    resume_source: ResumeSourceRecord | None = field(default=None, metadata={"key": "origin"})
    code: dict[str, str] = field(default_factory=dict)
    failed_checks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result(Measurements, RunDescription):
    """result.json. ``seconds``: time spent in the run's processes; ``error``: one line, where the run failed."""

    status: RunStatus
    end_reason: RunEndReason | None = None
    corpus_hash: str = ""
    tokenizer_hash: str = ""
    seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class JournalRecord:
    """One line of the journal. ``t``: milliseconds since 1970, set when the record is written."""

    kind: ClassVar[str]
    t: int = 0


@dataclass(frozen=True, kw_only=True)
class StartRecord(RunDescription, JournalRecord):
    """The first record of a run. ``replaces``: the uid of the earlier run, if force=true replaced one."""

    kind: ClassVar[str] = "start"
    data: DataFacts = field(default_factory=DataFacts)
    replaces: str | None = None
    pid: int = 0
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class ResumeRecord(JournalRecord):
    """Training continues from the checkpoint of ``step`` (0: from the start)."""

    kind: ClassVar[str] = "resume"
    step: int
    hardware: Hardware = field(default_factory=Hardware)
    processes: int = 1
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricsRecord(JournalRecord):
    """Values of a step.

    Attributes:
        batch_checksum: CRC-32, in hex, of the hash of the data and of where in it the rows of all batches since the
            previous record start. Older versions wrote a checksum of the tokens under another key: None.
    """

    kind: ClassVar[str] = "metrics"
    step: int
    values: dict[str, float]
    batch_checksum: str | None = field(default=None, metadata={"key": "rows"})


@dataclass(frozen=True, kw_only=True)
class EventRecord(JournalRecord):
    """A warning that a run has reported."""

    kind: ClassVar[str] = "event"
    step: int = 0
    level: str = "warning"
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class DivergedRecord(JournalRecord):
    """A loss, or more gradients than trainer.max_skips, were not finite: training fails after this record."""

    kind: ClassVar[str] = "diverged"
    step: int


@dataclass(frozen=True, kw_only=True)
class SampleRecord(JournalRecord):
    """Text that the model generated after training."""

    kind: ClassVar[str] = "sample"
    step: int
    text: str


@dataclass(frozen=True, kw_only=True)
class EndRecord(JournalRecord):
    """The end of training, with the full result. ``end_reason`` is None in journals of older versions."""

    kind: ClassVar[str] = "end"
    status: RunStatus
    end_reason: RunEndReason | None = None
    step: int = 0
    error: str | None = None
    result: Result | None = None


Record = StartRecord | ResumeRecord | MetricsRecord | EventRecord | DivergedRecord | SampleRecord | EndRecord
KINDS: dict[str, type[Record]] = {
    cls.kind: cls
    for cls in (StartRecord, ResumeRecord, MetricsRecord, EventRecord, DivergedRecord, SampleRecord, EndRecord)
}


def read_record(line: JsonObject) -> Record | None:
    """A line of a journal; None for a kind that this version does not know.

    Raises:
        ValueError: the line is not a record.
    """
    kind = line.get("kind") if isinstance(line, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"a record without a kind: {line!r}"[:200])
    return from_json(KINDS[kind], line) if kind in KINDS else None


def write_record(record: Record) -> JsonObject:
    """The fields of a record as a line of the journal holds them."""
    return {"t": record.t, "kind": record.kind, **to_json(record)}


def result_of(start: StartRecord, **figures: Any) -> Result:
    """A result with the description of a run's start record. ``figures``: the other fields of `Result`."""
    described = {one.name: getattr(start, one.name) for one in dataclasses.fields(RunDescription)}
    figures |= {"corpus_hash": start.data.corpus_hash, "tokenizer_hash": start.data.tokenizer_hash}
    return Result(**described, **figures)


def read_result(path: Path) -> Result:
    """result.json.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a result.
    """
    with open_regular(path, "rb") as file:
        return from_json(Result, parse_json(file.read()))


def write_result(path: Path, result: Result) -> None:
    """Write result.json completely or not at all.

    Raises:
        RunFailed: the disk is full or cannot be written.
    """
    write_json(path, {"status": result.status, **to_json(result)})
