"""SwiGLU: a linear unit gated by SiLU (Shazeer 2020)."""

import torch.nn.functional as F
from torch import Tensor

from gptx.ffn.base import Gated

ID = "ffn.swiglu"
REVISION = 1


class SwiGLU(Gated):
    def activate(self, x: Tensor) -> Tensor:
        return F.silu(x)
