"""The contract of a positional encoding. A position enters a model in four places only, all of them here.

Letters: B batch, T time, H heads, R rotated dims, D model width.
"""

from torch import Tensor, nn

from gptx.shape import Shape
from gptx.window.base import Window


class PositionalEncoding(nn.Module):
    """Does nothing in any of the four places: embedding, q/k rotation, logit bias, logit scale.

    Args:
        shape: the model's sizes.
        dim: R, how many dims of each head the attention hands to `rotate`.
    """

    logit_scale: float = 1.0
    biased: bool = False  # whether `bias` is to be asked
    max_length: int | None = None  # positions it knows; None: any

    def __init__(self, shape: Shape, dim: int) -> None:
        super().__init__()

    def at(self, layer: int, window: Window) -> "PositionalEncoding":
        """The encoding of one layer: e.g. another theta, or none, on global layers."""
        return self

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        """Token embeddings (B, T, D) and positions (B or 1, T) -> (B, T, D)."""
        return x

    def table(self, pos: Tensor) -> object:
        """What `rotate` needs for positions (B or 1, T); made once a forward and shared by the layers."""
        return None

    def rotate(self, x: Tensor, table: object) -> Tensor:
        """Queries or keys (B, T, H, R) -> the same shape."""
        return x

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Elementwise addition to the logits, for broadcastable head indices and positions. Asked if `biased`."""
        raise AssertionError(f"{type(self).__name__} has no bias")
