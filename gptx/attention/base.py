"""The contract of an attention: it projects, rotates and attends; of masks, caches, distribution it knows nothing."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Tensor, nn

Keep = Callable[..., tuple[Tensor, ...]]


class View(Protocol):
    """What one layer may see of the others' tokens (see `gptx.model.view`)."""

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]: ...

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        softcap: float = 0.0,
        sink: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> Tensor: ...


class Attention(nn.Module, ABC):
    """Its last layer is named ``out``: it joins the residual stream, and is initialised smaller.

    Attributes:
        tp: how tensor parallelism may cut a child. "col": by its outputs, which are heads. "row": by its inputs; the
            parts' results are added. "whole": not; its output goes to all heads. "shared": not; its weights are of one
            head's size, and all heads use them. What is not named is computed alike everywhere.
        kv_heads: heads of keys and values.
        together: how many of these, neighbours, cannot be cut apart.
        rotary_dim: R, how many dims of each head go through `view.rotate`.
        rotary_heads: G, how many key heads do.
        pair_width: multiply-adds spent on one (query, visible key) pair, all heads together.
        demands: what it asks of a kernel beyond plain products: "softcap", "sink", "decay".
    """

    tp: ClassVar[dict[str, str]]
    kv_heads: int
    together: int = 1
    rotary_dim: int
    rotary_heads: int
    pair_width: int
    demands: frozenset[str] = frozenset()

    @abstractmethod
    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        """(B, T, D) -> (B, T, D). ``keep(*tensors)`` appends (B, T, ...) to the cache and returns past and present,
        in the order of time."""
