"""A kernel of your own. Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, K dims of a head.

What the base class requires, and what it offers: docs/contracts.md#kernel of gptx.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gptx.geometry.attention_view import Score
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel, additive
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


class KernelTemplate(Kernel):
    """Product, softmax, product, without softcap, sink and decay."""

    supports: ClassVar[frozenset[str]] = frozenset()

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> Tensor:
        return additive(where, window, pos, self.n_head)  # (B or 1, H or 1, Tq, Tk)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, Tensor)
        each = q.shape[2] // k.shape[2]  # query heads of one key/value head
        k, v = (x.repeat_interleave(each, dim=2).transpose(1, 2) for x in (k, v))  # (B, H, Tk, K)
        logits = q.transpose(1, 2) @ k.mT * score.scale + mask  # (B, H, Tq, Tk)
        weights = F.dropout(torch.softmax(logits, dim=-1), self.dropout).to(v.dtype)
        return (weights @ v).transpose(1, 2)  # (B, Tq, H, K)
