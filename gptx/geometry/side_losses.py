"""Side losses and metrics of one forward, e.g. the load-balancing loss of experts."""

import torch
from torch import Tensor


class SideLosses:
    """Collects the additional losses and metrics of the layers in one forward pass.

    `GPT.forward` passes one collector to every block; side losses and metrics are returned in no other way.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.metrics: dict[str, list[Tensor]] = {}

    def add(self, loss: Tensor) -> None:
        """Add a weighted side loss, a scalar with gradient."""
        self.losses.append(loss)

    def report(self, name: str, value: Tensor) -> None:
        """Report a scalar for the journal; it is averaged over the layers that report it."""
        self.metrics.setdefault(name, []).append(value.detach())

    def extend(self, losses: list[Tensor], metrics: dict[str, list[Tensor]]) -> None:
        """Add the losses and metrics of another collector."""
        self.losses += losses
        for name, values in metrics.items():
            self.metrics.setdefault(name, []).extend(values)

    def means(self) -> dict[str, Tensor]:
        """Return each metric, a scalar: the mean over the layers that report it."""
        return {name: torch.stack(values).mean() for name, values in self.metrics.items()}

    def added_to(self, loss: Tensor) -> Tensor:
        """Return a loss with the value of ``loss`` and the gradient of ``loss`` plus the mean of the side losses."""
        if not self.losses:
            return loss
        side = torch.stack(self.losses).mean()
        return loss + (side - side.detach())
