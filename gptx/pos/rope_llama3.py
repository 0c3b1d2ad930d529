"""Llama 3.1's piecewise frequency scaling (Grattafiori et al. 2024; the formula is that of Meta's code)."""

import math

import torch
from torch import Tensor

from gptx.geometry.model_shape import ModelShape
from gptx.pos.check import above, at_least
from gptx.pos.rope_linear import RoPELinear

ID = "pos.rope_llama3"
REVISION = 1


class RoPELlama3(RoPELinear):
    """Pairs that turn more than ``high_freq_factor`` times within the original context keep their frequency, those
    that turn less than ``low_freq_factor`` times get ``factor`` times slower; between, a blend linear in the turns."""

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
        slow = super().frequencies(exponents)
        turns = self.original * slow * self.factor / (2 * math.pi)
        return torch.lerp(slow, slow * self.factor, ((turns - self.low) / (self.high - self.low)).clamp(0, 1))
