"""Rotary encoding on layers with a local window, no encoding on layers with a global one (iRoPE of Llama 4, Meta 2025;
Yang et al. 2025). Llama 4's attention temperature, which grows with the position at inference, is not included."""

from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding
from gptx.pos.none import NoPE
from gptx.pos.rope import RoPE
from gptx.window.base import Window

ID = "pos.irope"
REVISION = 1


class IRoPE(RoPE):
    """RoPE where the layer's window is local, NoPE elsewhere."""

    by_window = True

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float) -> None:
        super().__init__(shape, dim, heads, theta=theta)
        self.far = NoPE(shape, dim, heads)

    def at(self, layer: int, window: Window) -> PositionalEncoding:
        return self if window.local else self.far
