"""Squared ReLU (Primer, So et al. 2021)."""

import torch.nn.functional as F
from torch import Tensor

from gptx.ffn.base import PlainFFN

ID = "ffn.relu2"
REVISION = 1


class ReLU2(PlainFFN):
    """out(relu(up(x))^2)."""

    def activate(self, x: Tensor) -> Tensor:
        return F.relu(x).square()
