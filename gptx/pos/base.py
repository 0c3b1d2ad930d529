"""The contract of a positional encoding. A position enters a model in four places only, all of them here.

Letters: B batch, T time, H heads, R rotated dims, D model width.
"""

from torch import Tensor, nn

from gptx.geometry.model_shape import ModelShape
from gptx.window.base import Window


class PositionalEncoding(nn.Module):
    """Does nothing in any of the four places: embedding, q/k rotation, logit bias, logit scale.

    Args:
        shape: the model's sizes.
        dim: R, how many dims of each head the attention hands to `rotate`.
        heads: G, how many key heads it hands to `rotate`; divides the number of its query heads.
    """

    logit_scale: float = 1.0
    biased: bool = False  # whether `bias` is to be asked
    linear: bool = False  # whether the bias is -slopes[head] * (q_pos - k_pos), with ``slopes`` (H,) of its own
    pair_width: int = 0  # multiply-adds that `bias` spends on one pair in matrix products, all heads together
    relative: bool = False  # whether a logit depends on the distance of query and key alone: a claim, to be proven
    max_length: int | None = None  # positions it knows; None: any

    def __init__(self, shape: ModelShape, dim: int, heads: int) -> None:
        super().__init__()

    def at(self, layer: int, window: Window) -> "PositionalEncoding":
        """The encoding of one layer: e.g. another theta, or none, on global layers."""
        return self

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        """Token embeddings (B, T, D) and positions (B or 1, T) -> (B, T, D)."""
        return x

    def table(self, pos: Tensor) -> object:
        """What `rotate` needs for positions (B or 1, T), made once a forward and shared by the layers: tensors
        (B or 1, T, 1 or G, R), or nothing."""
        return None

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        """Queries (B, T, H, R) and keys (B, T, G, R) -> the same shapes."""
        return q, k

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Elementwise addition to the logits, for broadcastable head indices and positions. Asked if `biased`."""
        raise AssertionError(f"{type(self).__name__} has no bias")
