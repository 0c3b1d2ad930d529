"""Partial rotary: the rest of each head knows no position (GPT-J, Wang and Komatsuzaki 2021; GPT-NeoX, Black et al.
2022)."""

import torch
from torch import Tensor

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.pos.rope import RoPE

ID = "pos.rope_partial"
REVISION = 1


class RoPEPartial(RoPE):
    """Turns the first ``fraction`` of the dims handed to it, rounded, and leaves the others as they are."""

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float, fraction: float) -> None:
        turned = round(fraction * dim)
        even = list(range(2, dim + 1, 2))
        if even and turned not in even:
            nearest = min(even, key=lambda count: abs(count - fraction * dim))
            raise ConfigError(
                f"pos.fraction={fraction:g} turns {turned} of {dim} dims: expected an even number from 2 to "
                f"{even[-1]}, so pos.fraction={nearest / dim:.6g} would do"
            )
        super().__init__(shape, turned if even else dim, heads, theta=theta)

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        turned = super().rotate(q[..., : self.dim], k[..., : self.dim], table)
        q, k = (torch.cat((head, x[..., self.dim :]), dim=-1) for head, x in zip(turned, (q, k), strict=True))
        return q, k
