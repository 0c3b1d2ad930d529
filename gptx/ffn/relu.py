"""Rectified linear unit, the activation of the original transformer (Vaswani et al. 2017)."""

import torch.nn.functional as F
from torch import Tensor

from gptx.ffn.base import PlainFFN

ID = "ffn.relu"
REVISION = 1


class ReLU(PlainFFN):
    """out(relu(up(x)))."""

    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x)
