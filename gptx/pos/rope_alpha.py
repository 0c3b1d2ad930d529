"""Rotary encoding with a learned frequency factor alpha, after RoFormer (Su et al. 2021).

Letters: B batch, T time, H query heads, G key heads, R rotated dims.
"""

import torch
from torch import Tensor, nn

from gptx.geometry.model_shape import ModelShape
from gptx.pos.rope import RoPE, rotate_pairs

ID = "pos.rope_alpha"
REVISION = 1


class RoPEAlpha(RoPE):
    """Angles p * alpha_g * theta^(-2i/R): one alpha per key head, shared with its H/G query heads, or one for all.

    Query and key use the same alpha, so that a logit still depends on positions only through the distance.

    Args:
        shared: one alpha for all heads.
    """

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float, shared: bool) -> None:
        super().__init__(shape, dim, heads, theta=theta)
        self.alpha = nn.Parameter(torch.ones(1 if shared else heads))

    def frequencies(self, exponents: Tensor) -> Tensor:
        return self.alpha.to(exponents.dtype)[:, None] * super().frequencies(exponents)  # (1 or G, R/2)

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        assert isinstance(table, tuple)
        cos, sin = (half.to(q.dtype) for half in table)  # (B or 1, T, 1 or G, R)
        group = 1 if cos.shape[2] == 1 else q.shape[2] // cos.shape[2]
        q_cos, q_sin = cos.repeat_interleave(group, 2), sin.repeat_interleave(group, 2)  # (B or 1, T, 1 or H, R)
        return rotate_pairs(q, q_cos, q_sin), rotate_pairs(k, cos, sin)
