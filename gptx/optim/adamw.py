"""AdamW (Loshchilov and Hutter 2019), in torch's implementation."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch.optim import AdamW

from gptx.errors import ConfigError

ID = "optim.adamw"
REVISION = 1


def adamw(
    params: Iterable[Any], *, lr: float, betas: Sequence[float], eps: float, weight_decay: float, fused: bool
) -> AdamW:
    """The optimiser of these parameters or parameter groups.

    Args:
        lr: peak of the schedule.
        betas: decay rates of the first and the second moment, each at least 0 and below 1.
        eps: added to the square root of the second moment.
        weight_decay: for the parameter groups that do not set it.
        fused: use one fused kernel for the update.

    Raises:
        ConfigError: ``betas`` are not two numbers.
    """
    if len(betas) != 2:
        raise ConfigError(f"optim.betas={[*betas]}: expected two numbers, such as [0.9,0.95]")
    return AdamW(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)  # type: ignore[arg-type]
