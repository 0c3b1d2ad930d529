"""What the optimiser is given, and when it steps."""

from typing import Any

import torch
from torch import Tensor, nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices are decayed; vectors (biases, norms) are not. What lies on other processes is a group of its own: an
    optimiser steps a group's weights at once."""
    groups: dict[Any, dict[str, Any]] = {}
    for p in model.parameters():
        decay = weight_decay if p.dim() >= 2 else 0.0
        place = getattr(p, "device_mesh", None)
        groups.setdefault((place, decay), {"params": [], "weight_decay": decay})["params"].append(p)
    return sorted(groups.values(), key=lambda group: -float(group["weight_decay"]))


def update(optim: torch.optim.Optimizer, norm: Tensor, lr: float) -> Tensor:
    """Step with rate ``lr``, unless the gradient's ``norm`` is not finite: then weights and moments stay as they are.

    A fused optimiser decides on the device (as it does for a GradScaler): the host need not wait for the answer.

    Returns:
        bool, 0-d, on the device: whether the step was taken.
    """
    for group in optim.param_groups:
        group["lr"] = lr
    good = torch.isfinite(norm)
    if optim.defaults.get("fused"):
        optim.grad_scale, optim.found_inf = None, (~good).float()  # type: ignore[attr-defined]
        optim.step()
    elif bool(good):
        optim.step()
    optim.zero_grad(set_to_none=True)
    return good
