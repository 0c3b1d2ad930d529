"""Position interpolation: positions are scaled down into the trained range (Chen et al. 2023)."""

from torch import Tensor

from gptx.geometry.model_shape import ModelShape
from gptx.pos.range_check import at_least
from gptx.pos.rope import RoPE

ID = "pos.rope_linear"
REVISION = 1


class RoPELinear(RoPE):
    """Position p is encoded as p / factor: every frequency is ``factor`` times lower."""

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float, factor: float) -> None:
        super().__init__(shape, dim, heads, theta=theta)
        at_least("factor", factor, 1, 4)
        self.factor = factor

    def frequencies(self, exponents: Tensor) -> Tensor:
        return super().frequencies(exponents) / self.factor
