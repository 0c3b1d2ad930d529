"""Full attention: all earlier tokens are visible."""

import torch
from torch import Tensor

from gptx.window.base import Window

ID = "window.full"
REVISION = 1


class Full(Window):
    """Hides nothing."""

    def covers(self, length: int) -> bool:
        return True

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return torch.ones_like(q_pos - k_pos, dtype=torch.bool)
