"""The memory that one rank of a strategy needs, computed before any process is started."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Footprint:
    """The part of a model and of a batch that one rank holds.

    Attributes:
        rows: sequences whose activations the rank holds at once in training.
        row_fraction: the fraction of each sequence that the rank computes.
        weights: bytes of the rank's weights.
        gradients: bytes of gradients that stay in memory from one micro-batch to the next; 0: each gradient is used
            and freed within the backward.
        gathered: bytes of weights and gradients of other ranks that the rank holds temporarily.
    """

    rows: int
    row_fraction: float
    weights: int
    gradients: int
    gathered: int


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of all parameters; a parameter used twice counts once."""
    return sum(parameter.nbytes for parameter in module.parameters())
