"""Gaussian error linear unit (Hendrycks and Gimpel 2016)."""

import torch.nn.functional as F
from torch import Tensor

from gptx.ffn.base import Plain
from gptx.geometry.model_shape import ModelShape

ID = "ffn.gelu"
REVISION = 1


class GELU(Plain):
    """Exact, or GPT-2's tanh form."""

    def __init__(self, shape: ModelShape, *, ratio: float, tanh: bool) -> None:
        super().__init__(shape, ratio=ratio)
        self.approximate = "tanh" if tanh else "none"

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)
