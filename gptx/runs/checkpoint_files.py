"""The checkpoint folders of a run: their names, their checksums, and the removal of damaged ones. Imports no torch.

A checkpoint is a folder ``checkpoints/step-00000500/`` with the files that the ranks wrote and a meta.json, which holds
the step, the state of training, and size and SHA-256 of every file.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptx.regular_files import open_regular, refuse_links
from gptx.runs.atomic_files import JsonObject, flush_folder, write_json
from gptx.runs.damaged_files import parse_json
from gptx.runs.hashing import file_hash
from gptx.runs.json_codec import from_json, to_json

META = "meta.json"
NAME = re.compile(r"step-\d{8}")


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """The state of training in meta.json, besides the tensors.

    Attributes:
        rank_totals: (ranks, 3) sums of the meter, see `gptx.training.meter`.
        best: ``step``, ``stale`` and the values of the best validation.
        peak_memory: bytes, of the largest rank since the run started.
        tokens: trained on so far.
        batch_checksum: checksum of the batches since the last metrics record.
        torch: the version that wrote the checkpoint.
    """

    step: int
    rank_totals: tuple[tuple[float, ...], ...] = field(default=(), metadata={"key": "tallies"})
    best: dict[str, float] = field(default_factory=dict)
    peak_memory: int = field(default=0, metadata={"key": "peak"})
    tokens: int = 0
    batch_checksum: int = field(default=0, metadata={"key": "rows"})
    torch: str = ""


def steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if NAME.fullmatch(path.name))


def step_name(step: int) -> str:
    """The name of the checkpoint of a step."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint."""
    return int(path.name[5:])


def newest(folder: Path) -> int:
    """The step of the newest checkpoint, or 0 if there is none."""
    return max(map(step_of, steps(folder)), default=0)


def meta(path: Path) -> CheckpointMeta:
    """Read the meta.json of a checkpoint.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    return from_json(CheckpointMeta, _read(path))


def _read(path: Path) -> dict[str, Any]:
    with open_regular(path / META) as file:
        found: dict[str, Any] = parse_json(file.read())
    return found


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if it is intact.

    Raises:
        ConfigError: it contains a symbolic link.
    """
    refuse_links(path)
    try:
        found = _read(path)
        if found["step"] != step_of(path):
            return f"{META} is of step {found['step']}"
        for name, (size, digest) in found["files"].items():
            if Path(name).name != name:
                return f"{META} names the file {name!r}"
            actual = (path / name).stat().st_size
            if actual != size:
                return f"{name} has {actual} bytes, expected {size}"
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
    """Remove incomplete checkpoints, which a kill leaves, and rename damaged ones, so that the newest is intact.

    The command calls this before it starts processes, so that all of them resume from the same checkpoint.

    Args:
        report: called with a message for each damaged checkpoint.
    """
    for part in folder.glob(".step-*"):
        shutil.rmtree(part, ignore_errors=True)
    for path in reversed(steps(folder)):
        reason = damage(path)
        if reason is None:
            return
        fallback = "the start" if path == steps(folder)[0] else "the checkpoint before it"
        report(f"checkpoint {path.name} is damaged ({reason}): resuming from {fallback}")
        renamed = folder / f"damaged-{path.name}"
        shutil.rmtree(renamed, ignore_errors=True)
        path.rename(renamed)


def remove(path: Path) -> None:
    """Remove a checkpoint.

    It is renamed first, so that a kill leaves no incomplete checkpoint. A file that another process reads over NFS
    cannot be removed; `clear` removes it later.
    """
    removed = path.rename(path.with_name(f".{path.name}.old"))
    shutil.rmtree(removed, ignore_errors=True)


def finish(part: Path, final: Path, meta: CheckpointMeta) -> None:
    """Complete a checkpoint: write its meta.json, flush all files to the disk, and rename the folder.

    Args:
        part: the folder with the files.
        final: its new name.
        meta: the state of training.
    """
    files = {path.name: [path.stat().st_size, file_hash(path, flush=True)] for path in sorted(part.iterdir())}
    found = {**to_json(meta), "files": files}
    write_json(part / META, {**found, "seal": seal(found)})
    flush_folder(part)
    part.rename(final)
    flush_folder(final.parent)


def seal(found: JsonObject) -> str:
    """The checksum of a meta.json without the key ``seal``."""
    text = json.dumps({key: value for key, value in found.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
