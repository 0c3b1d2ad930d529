"""Chunked attention (Llama 4, 2025): documents are split into chunks; a token sees the earlier tokens of its chunk."""

from dataclasses import dataclass

from torch import Tensor

from gptx.window.base import Window, at_least_one

ID = "window.chunked"
REVISION = 1


@dataclass(frozen=True)
class Chunked(Window):
    """Chunks have ``size`` tokens each, counted from the start of the document."""

    size: int

    def __post_init__(self) -> None:
        at_least_one(size=self.size)

    @property
    def reach(self) -> int | None:
        return self.size

    def covers(self, length: int) -> bool:
        return length <= self.size

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return q_pos // self.size == k_pos // self.size
