"""What lies in a run's folder of checkpoints, and whether it is whole. Without torch."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

META = "meta.json"
NAME = re.compile(r"step-\d{8}")
FULL = 2**20  # bytes free on a disk that took no more


def steps(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if NAME.fullmatch(path.name))


def step_name(step: int) -> str:
    """Of a checkpoint's folder."""
    return f"step-{step:08d}"


def number(path: Path) -> int:
    """The step of a checkpoint."""
    return int(path.name[5:])


def newest(folder: Path) -> int:
    """The step of the newest checkpoint; 0: there is none."""
    return max(map(number, steps(folder)), default=0)


def meta(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: its step, the best so far, and the like."""
    found: dict[str, Any] = json.loads((path / META).read_text())
    return found


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        found = meta(path)
        if found["step"] != number(path):
            return f"{META} is of step {found['step']}"
        for name, (size, digest) in found["files"].items():
            there = (path / name).stat().st_size
            if there != size:
                return f"{name} has {there} bytes, expected {size}"
            if sha256(path / name) != digest:
                return f"the checksum of {name} is wrong"
        if seal(found) != found["seal"]:
            return f"the checksum of {META} is wrong"
    except OSError as error:
        return f"{Path(error.filename or path).name}: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{META} cannot be read ({type(error).__name__}: {error})"
    return None


def clear(folder: Path, report: Callable[[str], None]) -> None:
    """Remove what a kill left half written or half removed, report the newest checkpoints that are not what their
    checksums say, and move them out of the way. For the command, before it starts anybody: so all processes of a run
    go on from the same.
    """
    for part in folder.glob(".step-*"):
        shutil.rmtree(part, ignore_errors=True)
    for path in reversed(steps(folder)):
        why = damage(path)
        if why is None:
            return
        back = "the one before it" if path != steps(folder)[0] else "the start"
        report(f"checkpoint {path.name} is damaged ({why}): going back to {back}")
        aside = folder / f"damaged-{path.name}"
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


def remove(path: Path) -> None:
    """A checkpoint. Killed on the way, what is left of it has no checkpoint's name; and what cannot be removed because
    somebody reads it (NFS) goes at the next start."""
    gone = path.rename(path.with_name(f".{path.name}.old"))
    shutil.rmtree(gone, ignore_errors=True)


def finish(part: Path, final: Path, facts: dict[str, Any]) -> None:
    """Give a checkpoint its meta.json, with sizes and checksums, and its name, all of it on the disk."""
    files = {path.name: [path.stat().st_size, sha256(path, sync=True)] for path in sorted(part.iterdir())}
    facts = {**facts, "files": files}
    write_json(part / META, {**facts, "seal": seal(facts)})
    sync_folder(part)
    part.rename(final)
    sync_folder(final.parent)


def seal(facts: dict[str, Any]) -> str:
    """The checksum of a meta.json, without itself."""
    text = json.dumps({key: value for key, value in facts.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: Path, sync: bool = False) -> str:
    """Of a file's bytes, which ``sync`` brings to the disk (torch leaves the last of them in a buffer when it does)."""
    with open(path, "rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """The names in a folder are on the disk."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def no_space(folder: Path) -> str:
    """The system's words where the disk of a folder has no space left; "" where it has."""
    try:
        return os.strerror(errno.ENOSPC) if shutil.disk_usage(folder).free < FULL else ""
    except OSError:  # the folder is gone
        return ""


def write_json(path: Path, value: dict[str, Any], indent: int | None = None) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "w") as file:
            json.dump(value, file, indent=indent, ensure_ascii=False)
            to_disk(file)
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
