"""KERPLE: a learned bias from conditionally positive definite kernels (Chi et al. 2022), in its logarithmic and power
forms."""

import torch
from torch import Tensor, nn

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding

ID = "pos.kerple"
REVISION = 1


class Kerple(PositionalEncoding):
    """Logit bias of distance d: -r1 ln(1 + r2 d) (``log``) or -r1 d^r2 with r2 <= 2 (``power``). Each head learns its
    own r1, r2 > 0, stored as logarithm or logit.

    Args:
        form: "log" or "power".
    """

    relative = True

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, form: str) -> None:
        super().__init__(shape, dim, heads)
        if form not in ("log", "power"):
            raise ConfigError(f"pos.form={form!r}: expected log or power")
        self.form = form
        # Random, so that heads differ, as in the authors' code.
        first, second = torch.rand(2, shape.n_head).clamp(0.01, 0.99)
        self.a = nn.Parameter((2 * first).log() if form == "log" else first.log())
        self.b = nn.Parameter(second.log() if form == "log" else second.logit())

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        distance = (q_pos - k_pos).clamp(min=0).to(self.a.dtype)
        r1 = self.a.exp()[head]
        if self.form == "log":
            return -r1 * torch.log1p(self.b.exp()[head] * distance)
        return -r1 * distance ** (2 * self.b.sigmoid())[head]
