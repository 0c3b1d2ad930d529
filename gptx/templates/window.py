"""A window of your own: which earlier tokens are visible.

What the base class requires, and what it offers: docs/contracts.md#window of gptx.
"""

from dataclasses import dataclass

from torch import Tensor

from gptx.window.base import Window, at_least_one


@dataclass(frozen=True)
class WindowTemplate(Window):
    """A token sees the newest ``near`` tokens, itself included, and every ``step``-th token before them."""

    near: int
    step: int

    def __post_init__(self) -> None:
        at_least_one(near=self.near, step=self.step)

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        distance = q_pos - k_pos
        return (distance < self.near) | (distance % self.step == 0)
