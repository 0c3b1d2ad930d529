"""The original transformer's activation (Vaswani et al. 2017)."""

import torch.nn.functional as F
from torch import Tensor

from gptx.ffn.base import Plain

ID = "ffn.relu"
REVISION = 1


class ReLU(Plain):
    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x)
