"""The contract of a window: a predicate on positions, without learned parameters."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from gptx.errors import ConfigError


@dataclass(frozen=True)
class Window(ABC):
    """Which earlier tokens are visible. `gptx.geometry.visibility` adds that the future and other documents are hidden.

    Windows are compared by value: layers with equal windows share one mask.
    """

    @property
    def reach(self) -> int | None:
        """A query sees at most its last ``reach`` tokens, itself included; None: no bound. The cache allocates ring
        buffers of this size, and banded kernels need it."""
        return None

    @property
    def local(self) -> bool:
        """Whether tokens are hidden only because they are far from the query, as in a sliding window. Some encodings
        treat local and global layers differently."""
        return self.reach is not None

    @property
    def sliding(self) -> bool:
        """Whether the predicate is exactly ``q_pos - k_pos < reach``, which every fused kernel supports."""
        return False

    def at(self, layer: int, n_layer: int) -> "Window":
        """Return the window of one layer; patterns such as local/global override this."""
        return self

    def covers(self, length: int) -> bool:
        """Whether the window hides nothing in a row of ``length`` tokens, so that plain causal attention is equal."""
        return False

    @abstractmethod
    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Return an elementwise bool for broadcastable positions with k_pos <= q_pos; True where both are equal."""


def at_least_one(**sizes: int) -> None:
    """Raise ConfigError for sizes below 1, which hide a token from itself, or so large that positions overflow."""
    for name, size in sizes.items():
        if not 1 <= size <= 2**31:
            raise ConfigError(f"window.{name}={size}: expected at least 1, and at most {2**31}")
