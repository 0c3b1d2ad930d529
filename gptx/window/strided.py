"""Strided sparse attention (Sparse Transformer, Child et al. 2019, section 4.3): the union of its two patterns."""

from dataclasses import dataclass

from torch import Tensor

from gptx.window.base import Window, at_least_one

ID = "window.strided"
REVISION = 1


@dataclass(frozen=True)
class Strided(Window):
    """With l for ``stride``, token i sees the union of A1 and A2 of section 4.3:

    A1_i = {t, t + 1, ..., i} for t = max(0, i - l): the l tokens before it, and itself;
    A2_i = {j <= i : (i - j) mod l = 0}: every l-th earlier token.
    """

    stride: int

    def __post_init__(self) -> None:
        at_least_one(stride=self.stride)

    def covers(self, length: int) -> bool:
        return length <= self.stride + 1 or self.stride == 1

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        distance = q_pos - k_pos
        return (distance <= self.stride) | (distance % self.stride == 0)
