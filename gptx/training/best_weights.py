"""The best model of a run, as safetensors: all that generating from it needs besides the config."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gptx.errors import CheckpointError, RunFailed
from gptx.runs.checkpoint_files import META
from gptx.runs.files import flush, write_json


def save_best(folder: Path, step: int, weights: dict[str, Tensor], facts: dict[str, float]) -> None:
    """Replace ``folder/best/model.safetensors``; step and facts stand in its header, the checksum beside it."""
    best = folder / "best"
    best.mkdir(parents=True, exist_ok=True)
    header = {"step": str(step), "sha256": _digest(weights), **{key: repr(value) for key, value in facts.items()}}
    part = best / ".model.part"
    try:
        with open(part, "wb") as file:
            file.write(save({k: v.contiguous() for k, v in weights.items()}, metadata=header))
            flush(file)
        part.rename(best / "model.safetensors")
        write_json(best / META, {"step": step, **facts})
    except (OSError, RunFailed) as error:
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
