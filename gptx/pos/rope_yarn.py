"""YaRN: NTK-by-parts interpolation and a logit scale (Peng et al. 2023, sections 3.2 and 3.4)."""

import math

import torch
from torch import Tensor

from gptx.geometry.model_shape import ModelShape
from gptx.pos.range_check import above, at_least
from gptx.pos.rope_linear import RoPELinear

ID = "pos.rope_yarn"
REVISION = 1


class RoPEYaRN(RoPELinear):
    """Pairs with more than ``beta_fast`` rotations within the original context keep their frequency; the frequency of
    pairs with less than ``beta_slow`` rotations is divided by ``factor``; for pairs in between, it is interpolated
    linearly in the pair's index i, as in the authors' code.

    The logits are multiplied by 1/t = (0.1 ln(factor) + 1)^2 of section 3.4; the authors' code multiplies q and k by
    its square root.

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
        beta_fast: float,
        beta_slow: float,
    ) -> None:
        super().__init__(shape, dim, heads, theta=theta, factor=factor)
        above("theta", theta, 1, 10000)  # the ramp divides by its logarithm
        at_least("original", original, 0, shape.context)
        above("beta_slow", beta_slow, 0, 1)
        above("beta_fast", beta_fast, beta_slow, 32 * beta_slow)
        context = original or shape.context / factor
        # The pair indices i, as real numbers, with beta rotations: context / (2 pi theta^(2i/R)) = beta.
        fast, slow = (math.log(context / (2 * math.pi * beta), theta) * dim / 2 for beta in (beta_fast, beta_slow))
        self.first, self.last = max(math.floor(fast), 0), min(math.ceil(slow), dim - 1)
        self.logit_scale = (0.1 * math.log(factor) + 1) ** 2

    def frequencies(self, exponents: Tensor) -> Tensor:
        low = super().frequencies(exponents)
        i = exponents * (self.dim / 2)
        ramp = (i - self.first) / ((self.last - self.first) or 0.001)  # a step if both are equal
        return torch.lerp(low * self.factor, low, ramp.clamp(0, 1))
