"""GeGLU: a linear unit gated by GELU (Shazeer 2020, equation 6)."""

import torch.nn.functional as F
from torch import Tensor

from gptx.ffn.base import Gated
from gptx.geometry.model_shape import ModelShape

ID = "ffn.geglu"
REVISION = 1


class GeGLU(Gated):
    """With the exact GELU, or with its tanh form, as in Gemma."""

    def __init__(self, shape: ModelShape, *, ratio: float, multiple_of: int, tanh: bool) -> None:
        super().__init__(shape, ratio=ratio, multiple_of=multiple_of)
        self.approximate = "tanh" if tanh else "none"

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)
