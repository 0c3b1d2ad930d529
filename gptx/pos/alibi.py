"""ALiBi: a linear penalty on the distance of query and key, no embedding (Press et al. 2022)."""

import math

import torch
from torch import Tensor

from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding

ID = "pos.alibi"
REVISION = 1


class ALiBi(PositionalEncoding):
    """Logit bias -slope_h * (q - k). For H heads, slope_h = 2^(-8h/H), h = 1..H; if H is not a power of two, the slopes
    are those of the paper's code."""

    relative = True
    linear = True

    def __init__(self, shape: ModelShape, dim: int, heads: int) -> None:
        super().__init__(shape, dim, heads)
        self.slopes: Tensor
        self.register_buffer("slopes", torch.tensor(slopes(shape.n_head)), persistent=False)

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return -self.slopes[head] * (q_pos - k_pos)


def slopes(n_head: int) -> list[float]:
    """Return one slope per head: those of the largest power of two up to H, then every second slope of twice as many
    heads."""
    power = 2 ** math.floor(math.log2(n_head))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    longer = [2 ** (-4 * (h + 1) / power) for h in range(0, 2 * (n_head - power), 2)]
    return slopes + longer
