"""The contract of a window: a predicate on positions, without parameters."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from gptx.errors import ConfigError


@dataclass(frozen=True)
class Window(ABC):
    """Which past tokens are visible. A window never decides about the future or about documents: `where` does."""

    @property
    def reach(self) -> int | None:
        """Beyond this many tokens, itself included, nothing is ever visible; None where there is no such bound.
        Cache rings, FLOP counts and banded kernels read it."""
        return None

    @property
    def local(self) -> bool:
        """Whether a token's distance alone can hide it: what encodings that tell local from global layers go by."""
        return self.reach is not None

    @property
    def sliding(self) -> bool:
        """Whether it is ``q_pos - k_pos < reach`` and nothing else, which every fused kernel knows."""
        return False

    def at(self, layer: int, n_layer: int) -> "Window":
        """The window of one layer: patterns such as local/global override this."""
        return self

    def covers(self, length: int) -> bool:
        """Whether nothing is hidden in a row of ``length`` tokens, so that plain causal attention is the same."""
        return False

    @abstractmethod
    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Elementwise bool for broadcastable positions with k_pos <= q_pos; a token always allows itself."""


def at_least_one(**sizes: int) -> None:
    """Refuses sizes that would hide a token from itself, or that positions could not be multiplied with."""
    for name, size in sizes.items():
        if not 1 <= size <= 2**31:
            raise ConfigError(f"window.{name}={size}: expected at least 1, and at most {2**31}")
