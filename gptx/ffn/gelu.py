"""Gaussian error linear unit (Hendrycks and Gimpel 2016)."""

import torch.nn.functional as F
from torch import Tensor

from gptx.ffn.base import PlainFFN
from gptx.geometry.model_shape import ModelShape

ID = "ffn.gelu"
REVISION = 1


class GELU(PlainFFN):
    """out(gelu(up(x))).

    Args:
        tanh: use the tanh approximation, as GPT-2 does, instead of the exact GELU.
    """

    def __init__(self, shape: ModelShape, *, ratio: float, tanh: bool) -> None:
        super().__init__(shape, ratio=ratio)
        self.approximate = "tanh" if tanh else "none"

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)
