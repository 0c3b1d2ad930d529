"""Append-only files of JSON lines, such as the journal of a run and the journal of a sweep.

A record is one ``write`` of one line on an unbuffered file, with the time at which it was written. So
kill -9 loses at most the line that is being written.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from gptx.errors import RunFailed
from gptx.regular_files import open_regular
from gptx.runs.damaged_files import parse_json

NAME = "journal.jsonl"
Line = dict[str, Any]


class JsonLog:
    """Appends records to ``folder/journal.jsonl``.

    Args:
        shared: another process may be writing to the file at the same time.
    """

    def __init__(self, folder: Path, shared: bool = False) -> None:
        self.path = folder / NAME
        if not shared:
            drop_torn_line(self.path)
        self._file = open_regular(self.path, "ab", buffering=0)

    def write(self, kind: str, **fields: Any) -> None:
        """Append one record with the present time ``t`` in milliseconds.

        Raises:
            RunFailed: the record could not be written.
        """
        self.append({"t": now(), "kind": kind, **fields})

    def append(self, line: Line) -> None:
        """Append one line. If a full disk cuts the line, remove the written part, so that the next line is readable.

        Raises:
            RunFailed: the line could not be written.
        """
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        before = os.fstat(self._file.fileno()).st_size
        reason = "the disk is full"
        try:
            if self._file.write(data) == len(data):
                return
        except OSError as error:
            reason = error.strerror or str(error)
        os.ftruncate(self._file.fileno(), before)
        raise RunFailed(f"could not write {self.path}: {reason}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "JsonLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def drop_torn_line(path: Path) -> None:
    """Remove an incomplete last line, which a kill leaves, so that the next record starts on a new line."""
    try:
        file = open_regular(path, "r+b")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        data = file.read()
        complete = data.rfind(b"\n") + 1
        if complete != len(data):
            file.truncate(complete)


def tail(folder: Path, offset: int = 0) -> tuple[list[Line], int]:
    """The complete lines from byte ``offset`` on, and the offset after the last one."""
    try:
        file = open_regular(folder / NAME, "rb")
    except (FileNotFoundError, NotADirectoryError):
        return [], offset
    with file:
        file.seek(offset)
        data = file.read()
    complete = data.rfind(b"\n") + 1
    return [parse_json(line) for line in data[:complete].splitlines()], offset + complete


def read(folder: Path) -> Iterator[Line]:
    """All complete lines."""
    yield from tail(folder)[0]
