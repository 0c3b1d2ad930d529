"""The folder of a run: its files, its lock, and the record of its end."""

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO

from gptx.errors import ConfigError, RunFailed
from gptx.regular_files import open_regular, refuse_link, refuse_links
from gptx.runs import journal
from gptx.runs.journal import Journal
from gptx.runs.measurements import Measurements
from gptx.runs.records import (
    DivergedRecord,
    EndRecord,
    MetricsRecord,
    Record,
    Result,
    ResumeRecord,
    RunEndReason,
    RunStatus,
    StartRecord,
    read_result,
    result_of,
    write_result,
)

_STARTS = StartRecord | ResumeRecord


class RunFolder:
    """``outputs/<study>/<name>-<identity>/``. The constructor creates nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    def result(self) -> Result | None:
        """result.json, or None if it is missing or damaged (the journal holds all of it)."""
        try:
            return read_result(self.path / "result.json")
        except (OSError, ValueError):
            return None

    def finished(self) -> bool:
        """Whether the run has the result of a completed training."""
        result = self.result()
        return result is not None and result.status == RunStatus.FINISHED

    def start_record(self) -> StartRecord | None:
        """The first record of the journal, or None if there is no run in this folder."""
        return next((record for record in journal.read(self.path) if isinstance(record, StartRecord)), None)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock of this run, whose folder contains no symbolic link: see `held`."""
        refuse_links(self.path)
        return held(self.path, "trained")

    def move_away(self, outputs: Path) -> str | None:
        """Move the files of an earlier run to ``outputs/.replaced`` (force=true) and return the uid of that run.

        The journal is moved last: after a kill, the folder never holds old checkpoints without their journal.
        """
        start = self.start_record()
        if start is None:
            return None
        replaced = outputs / ".replaced" / self.path.parent.name / f"{self.path.name}-{time.time_ns()}"
        refuse_link(replaced.parent)
        replaced.mkdir(parents=True)
        for item in sorted(self.path.iterdir(), key=lambda item: item.name == journal.NAME):
            if item.name not in (journal.LOCK, "logs"):  # we hold the lock; other ranks of torchrun may already log
                item.rename(replaced / item.name)
        return start.uid

    def end(self, reason: RunEndReason, measured: Measurements | None = None, error: str | None = None) -> Result:
        """Write the journal's end record and result.json, and return the result.

        An error after a diverged record is recorded as its consequence.
        """
        start = self.start_record()
        assert start is not None, "a run without a start record cannot end"
        records = list(journal.read(self.path))
        last = max((record.step for record in records if isinstance(record, MetricsRecord)), default=0)
        if reason is RunEndReason.ERROR and _diverged(records):
            reason = RunEndReason.DIVERGED
        result = result_of(
            start,
            **(vars(measured) if measured else {"steps": last}),
            status=reason.status,
            end_reason=reason,
            seconds=_seconds(records),
            error=error,
        )
        with Journal(self.path) as book:
            book.write(
                EndRecord(status=reason.status, end_reason=reason, step=result.steps, error=error, result=result)
            )
        write_result(self.path / "result.json", result)
        return result

    def settle(self) -> None:
        """Write result.json from the journal's end record if a kill prevented it. The caller holds the lock."""
        if not (self.path / "config.yaml").exists():
            return  # force=true was killed while it moved the files of the earlier run
        ends = [record for record in journal.read(self.path) if isinstance(record, ResumeRecord | EndRecord)]
        last = ends[-1] if ends else None
        if isinstance(last, EndRecord) and last.result is not None and self.result() is None:
            write_result(self.path / "result.json", last.result)


def _diverged(records: Sequence[Record]) -> bool:
    """Whether training diverged since it was started or resumed for the last time."""
    since = itertools.takewhile(lambda record: not isinstance(record, _STARTS), reversed(records))
    return any(isinstance(record, DivergedRecord) for record in since)


@contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Create a folder and hold its lock. The kernel releases the lock when this process ends, however it ends.

    Args:
        doing: the purpose of the lock as a participle, such as "trained", for the error message.

    Raises:
        ConfigError: another living process holds the lock, or the folder or the lock is a symbolic link.
        RunFailed: the folder cannot be written.
    """
    refuse_link(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open_regular(folder / journal.LOCK, "a+")
    except OSError as error:
        raise RunFailed(f"could not write {folder}: {error.strerror or error}") from error
    with opened as file:
        deadline = time.monotonic() + 1.0  # a process that was killed needs a moment to end
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline and not _shared(file):
                    file.seek(0)
                    raise ConfigError(f"{folder} is already being {doing}, by {file.read().strip()}") from None
                time.sleep(0.01)
        with contextlib.suppress(OSError):  # on a full disk the lock works without the text
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}")
            file.flush()
        yield


def _shared(file: IO[str]) -> bool:
    """Whether the lock is held only by readers, which release it at once."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def _seconds(records: list[Record]) -> float:
    """Total running time in seconds: from each start or resume to the last record that the same process wrote."""
    spans = [after.t - before.t for before, after in pairwise(records) if not isinstance(after, _STARTS)]
    return float(sum(spans)) / 1000
