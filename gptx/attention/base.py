"""The contract of an attention. It projects, rotates and attends; it does not depend on masks, caches or processes.

Letters: B batch, T time, D model width, H query heads, G key/value heads, R rotated dims.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from gptx.geometry.attention_view import Keep, View


class Attention(nn.Module, ABC):
    """Base class. The last layer is named ``out`` and has a smaller initialisation: its output is added to the residual
    stream.

    Attributes:
        tp: how tensor parallelism splits each child module, by its name or dotted path. "col": by its outputs, which
            are heads. "row": by its inputs; the partial results are summed. "replicated": not at all; its output goes
            to all heads. "shared": not at all; its weights have the size of one head and all heads use them. A child
            without an entry is computed identically on every rank.
        kv_heads: number of key/value heads that tensor parallelism can distribute.
        head_group: number of adjacent key/value heads that must stay on one rank.
        rotary_dim: R, number of dims of each head that go through `view.rotate`.
        rotary_heads: G, number of key heads that go through `view.rotate`.
        macs_per_pair: multiply-adds for one (query, visible key) pair, all heads together.
        demands: features that a kernel must support beyond plain products: "softcap", "sink", "decay".
    """

    tp: dict[str, str]
    kv_heads: int
    head_group: int = 1
    rotary_dim: int
    rotary_heads: int
    macs_per_pair: int
    demands: frozenset[str] = frozenset()

    def at(self, layer: int, n_layer: int) -> "Attention":
        """Return the attention of one layer, counted from 0. Called once for the attention of each layer, after its
        constructor; an attention that depends on the depth overrides it."""
        return self

    @abstractmethod
    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        """(B, T, D) -> (B, T, D). ``keep(*tensors)`` appends (B, T, ...) to the cache and returns past and present
        tokens in the order of time."""
