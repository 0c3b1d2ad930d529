"""GeGLU: a gated linear unit with a GELU gate (Shazeer 2020, equation 6)."""

import torch.nn.functional as F
from torch import Tensor

from gptx.ffn.base import GatedFFN
from gptx.geometry.model_shape import ModelShape

ID = "ffn.geglu"
REVISION = 1


class GeGLU(GatedFFN):
    """out(gelu(gate(x)) * up(x)).

    Args:
        tanh: use the tanh approximation of GELU, as Gemma does, instead of the exact GELU.
    """

    def __init__(self, shape: ModelShape, *, ratio: float, multiple_of: int, tanh: bool) -> None:
        super().__init__(shape, ratio=ratio, multiple_of=multiple_of)
        self.approximate = "tanh" if tanh else "none"

    def activate(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.approximate)
