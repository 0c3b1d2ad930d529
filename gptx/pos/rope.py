"""Rotary position embedding (RoFormer, Su et al. 2021), in the half-split layout of Hugging Face checkpoints.

Letters: B batch, T time, H query heads, G key heads, R rotated dims. The other rotary encodings are made of this one.
"""

import torch
from torch import Tensor

from gptx.errors import ConfigError, option
from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding
from gptx.pos.check import above

ID = "pos.rope"
REVISION = 1


class RoPE(PositionalEncoding):
    """Turns the pair (x_i, x_{i+R/2}) by the angle p * theta^(-2i/R): q.k then depends on the distance alone."""

    relative = True

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float) -> None:
        super().__init__(shape, dim, heads)
        if dim % 2:
            raise ConfigError(
                f"pos={option(self)} needs an even head_dim, given {dim} (model.d_model={shape.d_model} / "
                f"model.n_head={shape.n_head}): model.d_model={(dim + 1) * shape.n_head} would do"
            )
        above("theta", theta, 0, 10000)
        self.dim, self.theta = dim, theta

    def exponents(self, pos: Tensor) -> Tensor:
        """(R/2,) 2i/R where positions lie, in float64: at position 10^5, angles in fp32 are off by 1 %."""
        high = torch.float32 if pos.device.type == "mps" else torch.float64  # mps has nothing better
        return torch.arange(0, self.dim, 2, device=pos.device, dtype=high) / self.dim

    def frequencies(self, exponents: Tensor) -> Tensor:
        """The angle that one token turns each pair by, (R/2,), or (G, R/2) where key heads differ."""
        return self.theta**-exponents

    def table(self, pos: Tensor) -> tuple[Tensor, ...]:
        """cos and signed sin, (B or 1, T, 1 or G, R)."""
        angle = pos[..., None, None] * self.frequencies(self.exponents(pos))  # (B or 1, T, 1 or G, R/2)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        assert isinstance(table, tuple)
        cos, sin = (half.to(q.dtype) for half in table)
        return turn(q, cos, sin), turn(k, cos, sin)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, H, R) with each pair turned: cos and signed sin are (B or 1, T, 1 or H, R)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
