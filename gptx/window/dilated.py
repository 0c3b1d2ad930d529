"""A dilated sliding window (Longformer, Beltagy et al. 2020, section 3.1): as wide, with gaps.

In a stack of nothing else, tokens whose distance is no multiple of the step never meet.
"""

from dataclasses import dataclass

from torch import Tensor

from gptx.window.base import Window, at_least_one

ID = "window.dilated"
REVISION = 1


@dataclass(frozen=True)
class Dilated(Window):
    """A token sees ``size`` tokens, itself included, each ``step`` before the next."""

    size: int
    step: int

    def __post_init__(self) -> None:
        at_least_one(size=self.size, step=self.step)

    @property
    def reach(self) -> int | None:
        return (self.size - 1) * self.step + 1

    def covers(self, length: int) -> bool:
        return length <= (self.size if self.step == 1 else 1)  # of two tokens, gaps hide the first from the second

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        distance = q_pos - k_pos
        return (distance % self.step == 0) & (distance < self.size * self.step)
