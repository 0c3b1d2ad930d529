"""The contract of a block: an attention and a feed-forward network, each on a residual branch.

Letters: B batch, T time, D model width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.ffn.base import FFN
from gptx.geometry.attention_view import Keep, View
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.side_losses import SideLosses


class Block(nn.Module, ABC):
    """Base class.

    Args:
        norm: creates one norm.

    Attributes:
        attention, ffn: set by the base constructor, which also creates the norms ``norm1`` and ``norm2`` and the
            dropout ``drop``.
        final_norm: whether the output of the last block needs a norm before the output layer.
    """

    attention: nn.Module
    ffn: nn.Module
    final_norm: ClassVar[bool] = True

    def __init__(self, shape: ModelShape, attention: Attention, ffn: FFN, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.attention = norm(), attention
        self.norm2, self.ffn = norm(), ffn
        self.drop = nn.Dropout(shape.dropout)

    @abstractmethod
    def forward(self, x: Tensor, view: View, keep: Keep, side: SideLosses) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
