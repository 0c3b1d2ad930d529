"""What lies in a run's folder of checkpoints, and whether it is whole. Without torch."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptx.runs.digest import file_hash
from gptx.runs.files import flush_folder, write_json

META = "meta.json"
NAME = re.compile(r"step-\d{8}")


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
            if file_hash(path / name) != digest:
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
    files = {path.name: [path.stat().st_size, file_hash(path, flush=True)] for path in sorted(part.iterdir())}
    facts = {**facts, "files": files}
    write_json(part / META, {**facts, "seal": seal(facts)})
    flush_folder(part)
    part.rename(final)
    flush_folder(final.parent)


def seal(facts: dict[str, Any]) -> str:
    """The checksum of a meta.json, without itself."""
    text = json.dumps({key: value for key, value in facts.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
