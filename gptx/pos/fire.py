"""FIRE: a learned function of the distance divided by the query's position (Li et al. 2023, section 3).

Letters: W width of the network, H query heads, '...' the broadcast shape of head indices and positions.
"""

import torch
from torch import Tensor, nn

from gptx.geometry.model_shape import ModelShape
from gptx.hardware.device import without_autocast
from gptx.pos.base import PositionalEncoding
from gptx.pos.range_check import above, at_least
from gptx.window.base import Window


class DistanceFunction(PositionalEncoding):
    """b(q, k) = f(psi(q - k) / psi(max(L, q))) with psi(x) = ln(c x + 1) and f a network with one hidden layer.

    c and L are learned, as their initial value times e^factor, so that they stay positive. Up to position L a logit
    depends on the distance only, beyond L on the distance relative to the position. The last layer of f has no bias:
    the same number on all logits of a query does not change the softmax. Args: see `FIRE`.
    """

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, width: int, c: float, threshold: float) -> None:
        super().__init__(shape, dim, heads)
        at_least("width", width, 1, 32)
        above("c", c, 0, 0.1)
        above("threshold", threshold, 0, 0.25)
        self.c, self.threshold = c, threshold * shape.context
        self.c_factor = nn.Parameter(torch.zeros(1))
        self.l_factor = nn.Parameter(torch.zeros(1))
        # A layer with one input, stored as vectors: a matrix would be initialised with std 0.02, which is too small.
        self.slope = nn.Parameter(torch.rand(width) * 2 - 1)
        self.offset = nn.Parameter(torch.rand(width) * 2 - 1)
        self.out = nn.Linear(width, shape.n_head, bias=False)
        self.macs_per_pair = width * shape.n_head

    def psi(self, x: Tensor) -> Tensor:
        """ln(c x + 1), elementwise."""
        return torch.log1p(self.c * self.c_factor.exp() * x)

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        norm = self.psi(torch.maximum(q_pos, self.threshold * self.l_factor.exp()))
        relative = self.psi((q_pos - k_pos).clamp(min=0)) / norm  # (...)
        hidden = torch.relu(relative[..., None] * self.slope + self.offset)  # (..., W)
        with without_autocast(hidden.device):  # bf16 cannot resolve long distances
            bias: Tensor = torch.einsum("...w,...w->...", hidden, self.out.weight[head])  # one matrix product
        return bias


ID = "pos.fire"
REVISION = 1
ADDED_KEYS = {"shared": True}


class FIRE(DistanceFunction):
    """Each layer has its own function, with its own c and L. This object is the function of the first layer.

    Args:
        width: W.
        c: initial value of c.
        threshold: initial value of L, as a fraction of the model's context.
        shared: one function for all layers, which computes the bias only once (FIRE-S in the paper).
    """

    def __init__(
        self, shape: ModelShape, dim: int, heads: int, *, width: int, c: float, threshold: float, shared: bool
    ) -> None:
        super().__init__(shape, dim, heads, width=width, c=c, threshold=threshold)
        deeper = 0 if shared else shape.n_layer - 1
        self.deeper = nn.ModuleList(
            DistanceFunction(shape, dim, heads, width=width, c=c, threshold=threshold) for _ in range(deeper)
        )

    def at(self, layer: int, window: Window) -> PositionalEncoding:
        found = self.deeper[layer - 1] if layer and self.deeper else self
        assert isinstance(found, PositionalEncoding)
        return found
