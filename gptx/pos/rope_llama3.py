"""Llama 3.1's piecewise frequency scaling (Grattafiori et al. 2024; formula from Meta's code)."""

import math

import torch
from torch import Tensor

from gptx.geometry.model_shape import ModelShape
from gptx.pos.range_check import above, at_least
from gptx.pos.rope_linear import RoPELinear

ID = "pos.rope_llama3"
REVISION = 1


class RoPELlama3(RoPELinear):
    """Pairs with more than ``high_freq_factor`` rotations within the original context keep their frequency; the
    frequency of pairs with less than ``low_freq_factor`` rotations is divided by ``factor``; for pairs in
    between, it is interpolated linearly in the number of rotations.

    Args:
        original: context in tokens before scaling; 0: model.context / factor.
    """

    def __init__(
        self,
        shape: ModelShape,
        dim: int,
        heads: int,
        *,
        theta: float,
        factor: float,
        original: int,
        low_freq_factor: float,
        high_freq_factor: float,
    ) -> None:
        super().__init__(shape, dim, heads, theta=theta, factor=factor)
        at_least("original", original, 0, shape.context)
        at_least("low_freq_factor", low_freq_factor, 0, 1)
        above("high_freq_factor", high_freq_factor, low_freq_factor, 4 * low_freq_factor or 4)
        self.original = original or shape.context / factor
        self.low, self.high = low_freq_factor, high_freq_factor

    def frequencies(self, exponents: Tensor) -> Tensor:
        low = super().frequencies(exponents)
        rotations = self.original * low * self.factor / (2 * math.pi)
        return torch.lerp(low, low * self.factor, ((rotations - self.low) / (self.high - self.low)).clamp(0, 1))
