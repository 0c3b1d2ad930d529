"""The interface between an attention and the rest of the model: rotate, attend, append to the cache.

Letters: B batch, T time, Tq queries, Tk keys, H query heads, G key/value heads, D head dim, R rotated dims.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Keep = Callable[..., tuple[Tensor, ...]]
"""``keep(*tensors)``: append tensors (B, T, ...) to the layer's cache; return past and present tokens (B, Tk, ...)."""


@dataclass(frozen=True, eq=False)
class Score:
    """How products of queries and keys become logits: softcap * tanh(q.k * scale / softcap) + bias + decay of the
    query - decay of the key.

    Attributes:
        scale: factor on q.k.
        softcap: bound on the logits' size; 0: none.
        sink: (H,) an additional logit in each head's softmax, without a value; None: none.
        decay: (B, Tk, G) or (B, Tk, H) subtracted from all logits of a key. The queries are the last of these tokens,
            and their decay is added: this does not change the softmax and keeps the logits small. None: none.
    """

    scale: float
    softcap: float = 0.0
    sink: Tensor | None = None
    decay: Tensor | None = None


class View(Protocol):
    """The interface that the attention of one layer may use: positions through `rotate`, other tokens through `attend`.

    These two functions apply the layer's encoding, window, document mask and kernel (see `gptx.model.layer_view`).
    """

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate queries (B, T, H, R) and keys (B, T, G, R) to their positions; shapes do not change."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, score: Score) -> Tensor:
        """Attend from q (B, Tq, H, D) to k (B, Tk, G, D) and v (B, Tk, G, Dv); return (B, Tq, H, Dv)."""
