"""Partial rotary encoding: only some dims of each head are rotated (GPT-J, Wang and Komatsuzaki 2021; GPT-NeoX, Black
et al. 2022)."""

import torch
from torch import Tensor

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.pos.rope import RoPE

ID = "pos.rope_partial"
REVISION = 1


class RoPEPartial(RoPE):
    """Rotates the first ``fraction`` of the dims, rounded to an integer, and leaves the others unchanged."""

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float, fraction: float) -> None:
        rotated = round(fraction * dim)
        even = list(range(2, dim + 1, 2))
        if even and rotated not in even:
            nearest = min(even, key=lambda count: abs(count - fraction * dim))
            raise ConfigError(
                f"pos.fraction={fraction:g} rotates {rotated} of {dim} dims: expected an even number from 2 to "
                f"{even[-1]}; use pos.fraction={nearest / dim:.6g}"
            )
        super().__init__(shape, rotated if even else dim, heads, theta=theta)

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        rotated = super().rotate(q[..., : self.dim], k[..., : self.dim], table)
        q, k = (torch.cat((first, x[..., self.dim :]), dim=-1) for first, x in zip(rotated, (q, k), strict=True))
        return q, k
