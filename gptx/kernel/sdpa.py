"""torch's fused scaled_dot_product_attention; torch chooses a flash or a memory-efficient kernel.

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from gptx.geometry.attention_view import Score
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel, additive
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window

ID = "kernel.sdpa"
REVISION = 1


class SDPA(Kernel):
    """Supports plain logits with any window and bias; no softcap, sink or decay."""

    supports: ClassVar[frozenset[str]] = frozenset()

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        """None where the mask is plain causal (the fast path, without a (Tq, Tk) tensor), else an additive mask."""
        return None if causal(where, window, pos) else additive(where, window, pos, self.n_head)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert mask is None or isinstance(mask, Tensor)
        grouped = q.shape[2] != k.shape[2]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or G, T, D)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            None if mask is None else mask.to(q.dtype),
            self.dropout,
            mask is None,
            scale=score.scale,
            enable_gqa=grouped,
        )
        return y.transpose(1, 2)  # (B, Tq, H, Dv)


def causal(where: Where, window: Window, pos: PositionalEncoding) -> bool:
    """Whether the mask is plain causal: one document, no bias, and a window that hides nothing of the row."""
    return where.aligned and not pos.biased and window.covers(where.k_pos.shape[1])
