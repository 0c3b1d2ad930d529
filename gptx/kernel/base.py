"""The contract of a kernel: softmax(q k^T * scale + bias over what is visible) v.

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.pos.base import PositionalEncoding
from gptx.shape import Shape
from gptx.where import Where, visible
from gptx.window.base import Window


class Kernel(nn.Module, ABC):
    """Has no parameters; drops attention weights while training."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.p, self.n_head = shape.dropout, shape.n_head

    @property
    def dropout(self) -> float:
        return self.p if self.training else 0.0

    def refuses(self, window: Window, pos: PositionalEncoding, attention: Attention, device: str) -> str | None:
        """Why this combination cannot be computed, or None. Asked when the model is built."""
        return None

    @abstractmethod
    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        """Built once a forward for each distinct (window, pos); opaque to everyone but this kernel."""

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, scale: float) -> Tensor:
        """q (B, Tq, H, D), k (B, Tk, G, D), v (B, Tk, G, Dv) -> (B, Tq, H, Dv)."""


def additive(where: Where, window: Window, pos: PositionalEncoding, n_head: int) -> Tensor:
    """(B or 1, H or 1, Tq, Tk): the bias where visible, -inf elsewhere.

    Without a bias it is bf16: 0 and -inf are exact in it, and added to scores of any type it leaves their type alone.
    """
    seen = visible(where, window.allows)[:, None]
    if not pos.biased:
        return torch.zeros_like(seen, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))
    head = torch.arange(n_head, device=seen.device)[None, :, None, None]
    bias = pos.bias(head, where.q_pos[:, None, :, None], where.k_pos[:, None, None, :])
    return bias.masked_fill(~seen, float("-inf"))
