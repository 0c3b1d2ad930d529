"""SwiGLU: a gated linear unit with a SiLU gate (Shazeer 2020)."""

import torch.nn.functional as F
from torch import Tensor

from gptx.ffn.base import GatedFFN

ID = "ffn.swiglu"
REVISION = 1


class SwiGLU(GatedFFN):
    """out(silu(gate(x)) * up(x))."""

    def activate(self, x: Tensor) -> Tensor:
        return F.silu(x)
