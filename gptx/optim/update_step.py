"""The parameter groups of the optimiser, and the update step that skips a gradient that is not finite."""

from typing import Any, TypedDict

import torch
from torch import Tensor, nn


class ParameterGroup(TypedDict):
    """A parameter group of torch's optimisers."""

    params: list[nn.Parameter]
    weight_decay: float


def decay_groups(model: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """Parameter groups: matrices get ``weight_decay``, vectors (biases, norms) get none.

    Parameters on different device meshes are in different groups, because the optimiser updates a group with one
    operation.
    """
    groups: dict[Any, ParameterGroup] = {}
    for p in model.parameters():
        decay = weight_decay if p.dim() >= 2 else 0.0
        mesh = getattr(p, "device_mesh", None)
        groups.setdefault((mesh, decay), {"params": [], "weight_decay": decay})["params"].append(p)
    return sorted(groups.values(), key=lambda group: -group["weight_decay"])


def update(optimizer: torch.optim.Optimizer, grad_norm: Tensor, learning_rate: float) -> Tensor:
    """Update the weights and delete the gradients. If the norm of the gradient is not finite, weights and moments do
    not change.

    A fused optimiser decides this on the device, as it does for a GradScaler: the host does not wait for the device,
    unless the weights are in its own RAM.

    Returns:
        bool, 0-d, on the device: whether the weights were updated.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    finite = torch.isfinite(grad_norm)
    if optimizer.defaults.get("fused"):
        # With weights in the RAM torch would copy this without waiting, and might read it before it has arrived.
        found_inf = (~finite).float().to(optimizer.param_groups[0]["params"][0].device)
        optimizer.grad_scale, optimizer.found_inf = None, found_inf  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(finite):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return finite
