"""Rotary encoding with different bases on local and global layers (Gemma 3, Gemma Team 2025)."""

from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding
from gptx.pos.range_check import above
from gptx.pos.rope import RoPE
from gptx.window.base import Window

ID = "pos.rope_dual"
REVISION = 1


class RoPEDual(RoPE):
    """Base ``theta`` on layers with a local window, ``global_theta`` on others: long distances need low frequencies."""

    by_window = True

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float, global_theta: float) -> None:
        super().__init__(shape, dim, heads, theta=theta)
        above("global_theta", global_theta, 0, 1e6)
        self.far = RoPE(shape, dim, heads, theta=global_theta)

    def at(self, layer: int, window: Window) -> PositionalEncoding:
        return self if window.local else self.far
