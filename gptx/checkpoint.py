"""Checkpoints: written whole or not at all, checksummed, the last few kept; the best model apart as safetensors."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gptx.errors import CheckpointError

STATE, META = "state.pt", "meta.json"


def save_step(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write ``folder/step-00000500/`` under a temporary name, rename it when it is on the disk, drop the oldest."""
    final = folder / f"step-{step:08d}"
    if final.exists():
        return
    part = folder / f".{final.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with open(part / STATE, "wb") as file:
            torch.save(state, file)
            _to_disk(file)
        _write_json(
            part / META, {"step": step, "bytes": (part / STATE).stat().st_size, "sha256": _sha256(part / STATE)}
        )
        part.rename(final)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(f"could not save the checkpoint of step {step} in {folder}: {error}") from error
    for old in steps(folder)[:-keep]:
        shutil.rmtree(old)


def steps(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))


def set_damaged_aside(folder: Path, report: Callable[[str], None]) -> None:
    """Report the newest checkpoints that are not what their checksums say, and move them out of the way of `latest`.
    For the command, before it starts anybody: so all processes of a run go on from the same one."""
    for path in reversed(steps(folder)):
        why = _damage(path)
        if why is None:
            return
        report(f"checkpoint {path.name} is damaged ({why}): going back to the one before it")
        aside = folder / f"damaged-{path.name}"
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)


def latest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint, or None where there is none."""
    found = steps(folder)
    if not found:
        return None
    state: dict[str, Any] = torch.load(found[-1] / STATE, map_location="cpu", weights_only=True)
    return state


def _damage(path: Path) -> str | None:
    try:
        meta = json.loads((path / META).read_text())
        size = (path / STATE).stat().st_size
    except (OSError, ValueError) as error:
        return str(error)
    if size != meta.get("bytes"):
        return f"{size} bytes, expected {meta.get('bytes')}"
    return None if _sha256(path / STATE) == meta.get("sha256") else "its checksum is wrong"


def save_best(folder: Path, step: int, weights: dict[str, Tensor], facts: dict[str, float]) -> None:
    """Replace ``folder/best/model.safetensors``; step and facts stand in its header, the checksum beside it."""
    best = folder / "best"
    best.mkdir(parents=True, exist_ok=True)
    header = {"step": str(step), "sha256": _digest(weights), **{key: repr(value) for key, value in facts.items()}}
    part = best / ".model.part"
    try:
        with open(part, "wb") as file:
            file.write(save({k: v.contiguous() for k, v in weights.items()}, metadata=header))
            _to_disk(file)
        part.rename(best / "model.safetensors")
        _write_json(best / META, {"step": step, **facts})
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(f"could not save the best model of step {step} in {best}: {error}") from error


def load_best(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights of the best model and its header.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / "best" / "model.safetensors"
    if not path.exists():
        raise CheckpointError(f"no best model in {folder}: the run has not come to its first validation")
    try:
        with safe_open(path, "pt") as file:
            header = dict(file.metadata())
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if _digest(weights) != header.get("sha256"):
        raise CheckpointError(f"{path} is damaged: its checksum is wrong")
    return weights, header


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _write_json(path: Path, value: dict[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    with open(part, "w") as file:
        json.dump(value, file)
        _to_disk(file)
    part.rename(path)
