"""A positional encoding of your own. Letters: H query heads, Tq queries, Tk keys.

What the base class requires, and what it offers: docs/contracts.md#pos of gptx.
"""

import torch
from torch import Tensor, nn

from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding


class PosTemplate(PositionalEncoding):
    """Logit bias -slope_h * log(1 + distance), with a learned slope for each head.

    Args:
        shape: the sizes of the model.
        dim, heads: the sizes of the keys that `rotate` gets; this encoding rotates nothing.
        slope: the initial slope of all heads.
    """

    relative = True  # the bias depends on positions through the distance only; `gptx prove` checks that

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, slope: float) -> None:
        super().__init__(shape, dim, heads)
        self.slope = nn.Parameter(torch.full((shape.n_head,), slope))

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        # The clamp: kernels also compute pairs of the future, and hide them afterwards.
        distance = (q_pos - k_pos).clamp(min=0)
        return -self.slope[head] * torch.log1p(distance.to(self.slope.dtype))
