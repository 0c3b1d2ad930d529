"""Rotary position embedding (RoFormer, Su et al. 2021), in the half-split layout of Hugging Face checkpoints.

Letters: B batch, T time, H query heads, G key heads, R rotated dims. All other rotary encodings are subclasses.
"""

import torch
from torch import Tensor

from gptx.errors import ConfigError, option
from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding
from gptx.pos.range_check import above

ID = "pos.rope"
REVISION = 1


class RoPE(PositionalEncoding):
    """Rotates the pair (x_i, x_{i+R/2}) at position p by the angle p * theta^(-2i/R): q.k then depends on positions
    only through the distance.

    Args:
        theta: base of the frequencies.
    """

    relative = True

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float) -> None:
        super().__init__(shape, dim, heads)
        if dim % 2:
            raise ConfigError(
                f"pos={option(self)} needs an even head_dim, given {dim} (model.d_model={shape.d_model} / "
                f"model.n_head={shape.n_head}); use model.d_model={(dim + 1) * shape.n_head}"
            )
        above("theta", theta, 0, 10000)
        self.dim, self.theta = dim, theta

    def exponents(self, pos: Tensor) -> Tensor:
        """Return 2i/R (R/2,) on the device of ``pos``, in float64: at position 10^5, fp32 angles are wrong by 1 %."""
        high = torch.float32 if pos.device.type == "mps" else torch.float64  # mps has no float64
        return torch.arange(0, self.dim, 2, device=pos.device, dtype=high) / self.dim

    def frequencies(self, exponents: Tensor) -> Tensor:
        """Return the angle per position of each pair, (R/2,), or (G, R/2) if key heads differ."""
        return self.theta**-exponents

    def table(self, pos: Tensor) -> tuple[Tensor, ...]:
        """Return cos and signed sin (-sin for the first half of R) of the angles, (B or 1, T, 1 or G, R) each."""
        angle = pos[..., None, None] * self.frequencies(self.exponents(pos))  # (B or 1, T, 1 or G, R/2)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        assert isinstance(table, tuple)
        cos, sin = (half.to(q.dtype) for half in table)
        return rotate_pairs(q, cos, sin), rotate_pairs(k, cos, sin)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of x (B, T, H, R); cos and signed sin are (B or 1, T, 1 or H, R)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
