"""The contract of an attention: it projects, rotates and attends; of masks, caches, distribution it knows nothing."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from torch import Tensor, nn

Keep = Callable[..., tuple[Tensor, ...]]


class View(Protocol):
    """What one layer may see of the others' tokens (see `gptx.view`)."""

    def rotate(self, x: Tensor) -> Tensor: ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor: ...


class Attention(nn.Module, ABC):
    """Attributes:
    tp: how tensor parallelism may cut each child: col | row.
    rotary_dim: R, how many dims of each head go through `view.rotate`.
    pair_width: multiply-adds spent on one (query, visible key) pair, all heads together.
    """

    tp: ClassVar[dict[str, str]]
    rotary_dim: int
    pair_width: int

    @abstractmethod
    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        """(B, T, D) -> (B, T, D). ``keep(*tensors)`` appends (B, T, ...) to the cache and returns past and present."""
