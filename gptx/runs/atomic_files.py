"""Files that are written completely or not at all, flushed to the disk, or locked."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptx.errors import RunFailed
from gptx.regular_files import open_regular

JsonObject = dict[str, Any]  # a JSON object; whoever reads one checks it

FULL = 2**20  # free bytes below which a disk counts as full


def write_json(path: Path, value: JsonObject) -> None:
    """Write a JSON file completely or not at all.

    Raises:
        RunFailed: the disk is full or cannot be written.
    """
    write_bytes(path, json.dumps(value, indent=1, ensure_ascii=False).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it.

    Raises:
        RunFailed: the disk is full or cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with open_regular(part, "wb") as file:
            file.write(data)
            flush(file)
        part.rename(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunFailed(f"could not write {path}: {error}") from error


def flush(file: Any) -> None:
    """Flush an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Flush the names in a folder to the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def no_space(folder: Path) -> str:
    """The system's message for a full disk if the disk of a folder is full, else ""."""
    try:
        return os.strerror(errno.ENOSPC) if shutil.disk_usage(folder).free < FULL else ""
    except OSError:  # the folder no longer exists
        return ""


@contextmanager
def flocked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on an existing file. The kernel releases it when the process ends."""
    with open_regular(path, "r+b") as file:  # NFS can lock only files that are open for writing
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
