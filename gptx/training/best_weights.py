"""The best weights of a run as safetensors: with config.yaml and tokenizer.json, all that generating text needs."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gptx.errors import CheckpointError, RunFailed
from gptx.regular_files import open_regular
from gptx.runs.atomic_files import flush, write_json
from gptx.runs.checkpoint_files import META


def save_best(folder: Path, step: int, weights: dict[str, Tensor], values: dict[str, float]) -> None:
    """Replace ``folder/best/model.safetensors``.

    Args:
        values: metrics of the validation; its header has them, the step and a checksum, and so has meta.json beside it.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    best = folder / "best"
    best.mkdir(parents=True, exist_ok=True)
    header = {"step": str(step), "sha256": _digest(weights), **{key: repr(value) for key, value in values.items()}}
    part = best / ".model.part"
    try:
        with open_regular(part, "wb") as file:
            file.write(save({k: v.contiguous() for k, v in weights.items()}, metadata=header))
            flush(file)
        part.rename(best / "model.safetensors")
        write_json(best / META, {"step": step, **values})
    except (OSError, RunFailed) as error:
        part.unlink(missing_ok=True)
        raise CheckpointError(f"could not save the best weights, of step {step}, in {best}: {error}") from error


def load_best(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The best weights and the header of their file.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    path = folder / "best" / "model.safetensors"
    if not path.exists():
        raise CheckpointError(f"there are no best weights in {folder}: the run has not reached its first validation")
    try:
        with safe_open(path, "pt") as file:
            header = dict(file.metadata() or {})
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
        digest.update(weights[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
