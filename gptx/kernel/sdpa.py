"""torch's fused scaled_dot_product_attention: flash or memory-efficient kernels, chosen by torch."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel, Score, additive
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window

ID = "kernel.sdpa"
REVISION = 1


class SDPA(Kernel):
    serves: ClassVar[frozenset[str]] = frozenset()

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        """None where plain causal attention says it all: the fused kernels' fast path, and no (Tq, Tk) tensor."""
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
        return y.transpose(1, 2)


def causal(where: Where, window: Window, pos: PositionalEncoding) -> bool:
    """Whether plain causal attention says it all."""
    return where.aligned and not pos.biased and window.covers(where.k_pos.shape[1])
