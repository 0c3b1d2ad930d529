"""The journal of a run: append-only JSON lines, the one truth that result tables and MLflow are views of.

A record is one ``write`` of one line on an unbuffered file, stamped when it is emitted. So a kill -9 loses at most the
line being written, and replaying the file into MLflow any number of times gives the same rows (its de-duplication is
on key, time stamp, step and value).
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from gptx.errors import RunFailed

Record = dict[str, Any]

NAME = "journal.jsonl"
LOCK = "run.lock"


class Journal:
    """Appends records to ``run_dir/journal.jsonl``; a metrics step that is already there is not written again.

    Args:
        shared: another process may be writing to it just now.
    """

    def __init__(self, run_dir: Path, shared: bool = False) -> None:
        self.path = run_dir / NAME
        if not shared:
            drop_torn_line(self.path)
        self.last_step = max((r["step"] for r in read(run_dir) if r["kind"] == "metrics"), default=-1)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the run

    def write(self, kind: str, **fields: Any) -> None:
        """Append one record. A resumed run replays steps it has journaled: their first emission stands."""
        if kind == "metrics":
            if fields["step"] <= self.last_step:
                return
            self.last_step = fields["step"]
        record = {"t": time.time_ns() // 1_000_000, "kind": kind, **fields}
        self._append(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        """A full disk may take half a line: then none of it stays, so that the next one is not spoilt too.

        Raises:
            RunFailed: the line could not be written.
        """
        before = os.fstat(self._file.fileno()).st_size
        why = "the disk is full"
        try:
            if self._file.write(line) == len(line):
                return
        except OSError as error:
            why = error.strerror or str(error)
        os.ftruncate(self._file.fileno(), before)
        raise RunFailed(f"could not write {self.path}: {why}")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def drop_torn_line(path: Path) -> None:
    """Cut what a kill left behind the last newline, so that the next record starts on a line of its own."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        os.truncate(path, whole)


def tail(run_dir: Path, offset: int = 0) -> tuple[list[Record], int]:
    """Whole records from byte ``offset`` on, and the offset behind the last of them."""
    path = run_dir / NAME
    if not path.exists():
        return [], offset
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:whole].splitlines()], offset + whole


def read(run_dir: Path) -> Iterator[Record]:
    """All whole records of a run."""
    yield from tail(run_dir)[0]


def computed(run_dir: Path) -> dict[tuple[int, str], Any]:
    """All that training computed, by step and key: losses and the like, and the checksum of the batches; no speeds."""
    found: dict[tuple[int, str], Any] = {}
    for record in (record for record in read(run_dir) if record["kind"] == "metrics"):
        values = {**record["values"], **({"batch": record["batch"]} if "batch" in record else {})}
        found |= {(record["step"], key): value for key, value in values.items() if not key.startswith("perf/")}
    return found


def runs(root: Path) -> Iterator[Path]:
    """Run folders at or below ``root``, sorted; dot folders (caches, stores, replaced runs) are not looked into."""
    if (root / NAME).exists():
        yield root
        return
    if root.is_dir():
        for child in sorted(root.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from runs(child)


def locked(run_dir: Path) -> bool:
    """Whether a living process trains this run: the kernel frees the lock when its holder dies, however it dies."""
    try:
        with open(run_dir / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def status(run_dir: Path) -> str:
    """``finished``, ``failed``, ``interrupted``, ``running``, or ``killed``: no end written and nobody at work."""
    alive, last = locked(run_dir), None  # in this order: what it writes before it lets go is read
    for record in read(run_dir):
        if record["kind"] in ("start", "resume", "end"):
            last = record
    if last is not None and last["kind"] == "end":
        return str(last["status"])
    return "running" if alive or locked(run_dir) else "killed"
