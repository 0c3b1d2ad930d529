"""The contract of a kernel: softmax(q k^T * scale + bias, over the visible keys) v.

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where, visible
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


class Kernel(nn.Module, ABC):
    """Base class. A kernel has no parameters. In training it applies dropout to the attention weights.

    Args:
        demands: features that the attention needs beyond plain products (see `gptx.attention.base.Attention.demands`).

    Attributes:
        demands, dropout_p, n_head: set by the base constructor: the features above, the dropout probability in
            training, and the number of query heads on this rank.
        supports: the features that the kernel has, of "softcap", "sink" and "decay".
        supports_packing: whether it can hide the documents of a row from one another.
        supports_fp32: whether it computes in fp32, and not in bf16 only.
        supports_partial_rows: whether it uses the same algorithm with fewer queries than keys.
        target_device: device type for which `auto` chooses a kernel; "": that of the tensors.
    """

    demands: frozenset[str]
    dropout_p: float
    n_head: int
    supports: ClassVar[frozenset[str]] = frozenset({"softcap", "sink", "decay"})
    supports_packing: ClassVar[bool] = True
    supports_fp32: ClassVar[bool] = True
    supports_partial_rows: ClassVar[bool] = True
    target_device: str = ""

    def __init__(self, shape: ModelShape, demands: frozenset[str]) -> None:
        super().__init__()
        self.dropout_p, self.n_head, self.demands = shape.dropout, shape.n_head, demands

    @property
    def dropout(self) -> float:
        """Dropout probability of the current mode: 0 in evaluation."""
        return self.dropout_p if self.training else 0.0

    def rejects(self, window: Window, pos: PositionalEncoding, device: str) -> str | None:
        """Return why a layer with this window and encoding cannot be computed on this device type, or None.

        Called when a model is built. The message puts the names of options before the text, so it is "it ...; use ...".
        """
        return self.unsupported(window, pos)

    def unsupported(self, window: Window, pos: PositionalEncoding) -> str | None:
        """Return why a layer with this window and encoding cannot be computed on any device, or None if it can."""
        missing = sorted(self.demands - self.supports)
        if missing:
            return f"it has no attention {' or '.join(missing)}; use kernel=auto or kernel=reference"
        return None

    @abstractmethod
    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        """Build what `forward` needs for this window and encoding; called once per forward of the model for each
        distinct pair. The type of the result is private to the kernel."""

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        """q (B, Tq, H, D), k (B, Tk, G, D), v (B, Tk, G, Dv) -> (B, Tq, H, Dv)."""


def additive(where: Where, window: Window, pos: PositionalEncoding, n_head: int) -> Tensor:
    """Return an additive mask (B or 1, H or 1, Tq, Tk): the bias (or 0) where visible, -inf elsewhere.

    Without a bias it is bf16: 0 and -inf are exact in bf16, and adding them does not change the dtype of the logits.
    """
    seen = visible(where, window.allows)[:, None]  # (B or 1, 1, Tq, Tk)
    if not pos.biased:
        return torch.zeros_like(seen, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))
    head = torch.arange(n_head, device=seen.device)[None, :, None, None]  # (1, H, 1, 1)
    bias = pos.bias(head, where.q_pos[:, None, :, None], where.k_pos[:, None, None, :])  # (B or 1, H, Tq, Tk)
    return bias.masked_fill(~seen, float("-inf"))
