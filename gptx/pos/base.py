"""The contract of a positional encoding. A position may enter a model in four places, all of them here.

Letters: B batch, T time, H query heads, G key heads, R rotated dims, D model width.
"""

from typing import ClassVar

from torch import Tensor, nn

from gptx.geometry.model_shape import ModelShape
from gptx.window.base import Window


class PositionalEncoding(nn.Module):
    """Base class; does nothing in any of the four places: embedding, q/k rotation, logit bias, logit scale.

    Args:
        shape: the model's sizes.
        dim: R, number of dims of each head that the attention passes to `rotate`.
        heads: G, number of key heads that it passes to `rotate`; divides the number of query heads.

    Attributes:
        logit_scale: factor on all logits.
        biased: whether `bias` is added to the logits; True in a class that overrides `bias`.
        linear: whether the bias is -slopes[head] * (q_pos - k_pos), with an attribute ``slopes`` (H,).
        macs_per_pair: multiply-adds that `bias` spends on one pair in matrix products, all heads together.
        relative: whether a logit depends on positions only through the distance of query and key; the tests check it.
        by_window: whether `at` distinguishes windows, and not only layers.
        max_length: number of positions that the encoding supports; None: any number.
    """

    NEEDED_WITH: ClassVar[dict[str, str]] = {"biased": "bias", "linear": "slopes"}

    logit_scale: float = 1.0
    biased: bool = False
    linear: bool = False
    macs_per_pair: int = 0
    relative: bool = False
    by_window: bool = False
    max_length: int | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "bias" in vars(cls) and "biased" not in vars(cls):
            cls.biased = True

    def __init__(self, shape: ModelShape, dim: int, heads: int) -> None:
        super().__init__()

    @property
    def embeds(self) -> bool:
        """Whether the encoding changes the embeddings."""
        return type(self).embed is not PositionalEncoding.embed

    def at(self, layer: int, window: Window) -> "PositionalEncoding":
        """Return the encoding of one layer, e.g. with another theta on layers with a global window."""
        return self

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        """Token embeddings (B, T, D) and positions (B or 1, T) -> (B, T, D)."""
        return x

    def table(self, pos: Tensor) -> object:
        """Return what `rotate` needs for positions (B or 1, T): a tuple of tensors (B or 1, T, 1 or G, R), or None.
        Computed once per forward and shared by the layers."""
        return None

    def rotate(self, q: Tensor, k: Tensor, table: object) -> tuple[Tensor, Tensor]:
        """Queries (B, T, H, R) and keys (B, T, G, R) -> the same shapes."""
        return q, k

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        """Return what is added to the logits, elementwise for broadcastable head indices and positions.
        Called only if ``biased``."""
        raise AssertionError(f"{type(self).__name__} has no bias")
