"""The journal of a run: the source of truth, of which result.json, tables and MLflow are views.

Replaying it into MLflow any number of times gives the same rows, because MLflow ignores a value whose key, time, step
and value it already has.
"""

import fcntl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from gptx.regular_files import open_regular
from gptx.runs import json_log
from gptx.runs.json_log import NAME, JsonLog
from gptx.runs.records import (
    EndRecord,
    MetricsRecord,
    Record,
    ResumeRecord,
    RunStatus,
    StartRecord,
    read_record,
    write_record,
)

__all__ = ["LOCK", "NAME", "Journal", "computed", "locked", "read", "runs", "status", "tail"]

LOCK = "run.lock"


class Journal:
    """Appends records to ``run_dir/journal.jsonl``; metrics of a step that it already holds are not written again."""

    def __init__(self, run_dir: Path) -> None:
        self._log = JsonLog(run_dir)
        self.path = self._log.path
        self.last_step = max((record.step for record in metrics(run_dir)), default=-1)

    def write(self, record: Record) -> None:
        """Append one record with the current time. A resumed run repeats steps: metrics are written once per step.

        Raises:
            RunFailed: the record could not be written.
        """
        if isinstance(record, MetricsRecord):
            if record.step <= self.last_step:
                return
            self.last_step = record.step
        self._log.append(write_record(replace(record, t=json_log.now())))

    def close(self) -> None:
        """Close the file."""
        self._log.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def tail(run_dir: Path, offset: int = 0) -> tuple[list[Record], int]:
    """The complete records from byte ``offset`` on, and the offset after the last one.

    Raises:
        ValueError: a line is not a record.
    """
    lines, offset = json_log.tail(run_dir, offset)
    return [record for line in lines if (record := read_record(line)) is not None], offset


def read(run_dir: Path) -> Iterator[Record]:
    """All complete records of a run.

    Raises:
        ValueError: a line is not a record.
    """
    yield from tail(run_dir)[0]


def metrics(run_dir: Path) -> Iterator[MetricsRecord]:
    """The metrics records of a run."""
    return (record for record in read(run_dir) if isinstance(record, MetricsRecord))


def computed(run_dir: Path) -> dict[tuple[int, str], float | str]:
    """What training computed, by step and key: losses, norms and the checksum of the batches, but no speeds."""
    found: dict[tuple[int, str], float | str] = {}
    for record in metrics(run_dir):
        found |= {(record.step, key): value for key, value in record.values.items() if not key.startswith("perf/")}
        if record.batch_checksum is not None:
            found[record.step, "batch"] = record.batch_checksum
    return found


def runs(root: Path) -> Iterator[Path]:
    """Run folders at or below ``root``, sorted. Folders that start with a dot (caches, replaced runs) are skipped.

    ``root`` and the folders in it may be symbolic links, but not the folder of a run, nor one below: a link could lead
    out of what was given.
    """
    if (root / NAME).exists():
        yield root
        return
    for child in _folders(root):
        if not (child.is_symlink() and (child / NAME).exists()):
            yield from _runs_without_links(child)


def _runs_without_links(folder: Path) -> Iterator[Path]:
    if (folder / NAME).exists():
        yield folder
        return
    for child in _folders(folder):
        if not child.is_symlink():
            yield from _runs_without_links(child)


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [child for child in sorted(root.iterdir()) if child.is_dir() and not child.name.startswith(".")]


def locked(run_dir: Path) -> bool:
    """Whether a living process trains this run: the system frees the lock when its holder dies, however it dies."""
    try:
        with open_regular(run_dir / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def status(run_dir: Path) -> RunStatus:
    """The status of a run: that of its end record, or whether a process trains it."""
    alive, last = locked(run_dir), None  # in this order: a run writes its end before it frees the lock
    for record in read(run_dir):
        if isinstance(record, StartRecord | ResumeRecord | EndRecord):
            last = record
    if isinstance(last, EndRecord):
        return last.status
    return RunStatus.RUNNING if alive or locked(run_dir) else RunStatus.KILLED
