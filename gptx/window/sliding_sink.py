"""A sliding window with attention sinks (StreamingLLM, Xiao et al. 2023): the first tokens stay visible, because
softmax puts unneeded weight on them.

Tokens have their original positions here; StreamingLLM renumbers the visible ones (section 3.2).
"""

from dataclasses import dataclass

from torch import Tensor

from gptx.errors import ConfigError
from gptx.window.base import Window, at_least_one

ID = "window.sliding_sink"
REVISION = 1


@dataclass(frozen=True)
class SlidingSink(Window):
    """A token sees the last ``size`` tokens, itself included, and the first ``sinks`` of its document."""

    size: int
    sinks: int

    def __post_init__(self) -> None:
        at_least_one(size=self.size)
        if self.sinks < 1:
            raise ConfigError(f"window.sinks={self.sinks}: expected at least 1; use window=sliding for no sinks")

    @property
    def local(self) -> bool:
        return True  # the first tokens are visible at any distance, so there is no reach

    def covers(self, length: int) -> bool:
        return length <= self.size + self.sinks

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return (q_pos - k_pos < self.size) | (k_pos < self.sinks)
