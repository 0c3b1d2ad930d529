"""The contract of an attention. It projects, rotates and attends; it does not depend on masks, caches or processes.

Letters: B batch, T time, D model width, H query heads, G key/value heads, R rotated dims.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from gptx.geometry.attention_view import Keep, View


class Attention(nn.Module, ABC):
    """Base class. The last layer is named ``out`` and has a smaller initialisation: its output is added to the residual
    stream.

    Attributes:
        rotary_dim: R, number of dims of each head that go through `view.rotate`.
        rotary_heads: G, number of key heads that go through `view.rotate`.
        demands: features that a kernel must support beyond plain products: "softcap", "sink", "decay".
        tp: how tensor parallelism splits each child module, by its name or dotted path. "col": by its outputs, which
            are heads. "row": by its inputs; the partial results are summed. "replicated": not at all; its output goes
            to all heads. "shared": not at all; its weights have the size of one head and all heads use them. A child
            without an entry is computed identically on every rank. None: it cannot be split.
        kv_heads: number of key/value heads that tensor parallelism can distribute; needed with ``tp``.
        head_group: number of adjacent key/value heads that must stay on one rank.
    """

    NEEDED_WITH: ClassVar[dict[str, str]] = {"tp": "kv_heads"}

    rotary_dim: int
    rotary_heads: int
    demands: frozenset[str] = frozenset()
    tp: dict[str, str] | None = None
    kv_heads: int | None = None
    head_group: int = 1

    def at(self, layer: int, n_layer: int) -> "Attention":
        """Return the attention of one layer, counted from 0. Called once for the attention of each layer, after its
        constructor; an attention that depends on the depth overrides it."""
        return self

    @abstractmethod
    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        """(B, T, D) -> (B, T, D). ``keep(*tensors)`` appends (B, T, ...) to the cache and returns past and present
        tokens in the order of time."""
