"""xPos: rotary encoding with a decay over distance for each pair (Sun et al. 2022; as in torchscale).

Letters: B batch, T time, R rotated dims.
"""

import math

import torch
from torch import Tensor

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.pos.range_check import above
from gptx.pos.rope import RoPE, rotate_pairs

EXPONENT = 60  # largest factor on q and k, as a power of e; fp32 and bf16 overflow at e^88


ID = "pos.xpos"
REVISION = 1


class XPos(RoPE):
    """q_p times zeta^(p / scale_base), k_p times its inverse: a pair's product shrinks by zeta^(distance / scale_base).

    zeta_i = (i / (R/2) + gamma) / (1 + gamma). Each factor alone grows with the position, and cached keys contain
    theirs: so there is a largest supported position.

    Args:
        scale_base: distance in tokens over which a product shrinks by zeta.
        gamma: offset in zeta; smaller values decay faster.

    Raises:
        ConfigError: the model's context exceeds the largest supported position.
    """

    def __init__(
        self, shape: ModelShape, dim: int, heads: int, *, theta: float, scale_base: float, gamma: float
    ) -> None:
        super().__init__(shape, dim, heads, theta=theta)
        above("scale_base", scale_base, 0, 512)
        above("gamma", gamma, 0, 0.4)
        self.scale_base, self.gamma = scale_base, gamma
        steepest = math.log1p(1 / gamma)  # -ln(zeta_0)
        self.max_length = int(EXPONENT * scale_base / steepest)
        if shape.context > self.max_length:
            enough = math.ceil(shape.context * steepest / EXPONENT)
            raise ConfigError(
                f"pos.scale_base={scale_base:g} supports {self.max_length} tokens before numbers overflow, given "
                f"model.context={shape.context}; use pos.scale_base={enough}"
            )

    def table(self, pos: Tensor) -> tuple[Tensor, ...]:
        """Return cos and signed sin for queries, then for keys, (B or 1, T, 1, R) each."""
        cos, sin = super().table(pos)
        zeta = ((self.exponents(pos) + self.gamma) / (1 + self.gamma)).repeat(2)
        scale = torch.exp(pos[..., None, None] * (zeta.log() / self.scale_base))
        return cos * scale, sin * scale, cos / scale, sin / scale

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        assert isinstance(table, tuple)
        q_cos, q_sin, k_cos, k_sin = (factor.to(q.dtype) for factor in table)
        return rotate_pairs(q, q_cos, q_sin), rotate_pairs(k, k_cos, k_sin)
