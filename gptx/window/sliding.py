"""Sliding-window attention (Longformer, Beltagy et al. 2020; Mistral 7B, Jiang et al. 2023)."""

from dataclasses import dataclass

from torch import Tensor

from gptx.window.base import Window, at_least_one

ID = "window.sliding"
REVISION = 1


@dataclass(frozen=True)
class Sliding(Window):
    """A token sees the last ``size`` tokens, itself included: 0 <= q - k < size."""

    size: int

    def __post_init__(self) -> None:
        at_least_one(size=self.size)

    @property
    def reach(self) -> int | None:
        return self.size

    @property
    def sliding(self) -> bool:
        return True

    def covers(self, length: int) -> bool:
        return length <= self.size

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return q_pos - k_pos < self.size
