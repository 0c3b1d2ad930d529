"""The contract of a block: attention and feed-forward, each on a residual line of its own.

Letters: B batch, T time, D model width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from gptx.attention.base import Attention, Keep, View
from gptx.ffn.base import FFN
from gptx.geometry.model_shape import ModelShape


class Block(nn.Module, ABC):
    """Attributes:
    final_norm: whether what the last block leaves still needs a norm before the output layer.
    """

    final_norm: ClassVar[bool] = True

    def __init__(self, shape: ModelShape, attention: Attention, ffn: FFN, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.attention = norm(), attention
        self.norm2, self.ffn = norm(), ffn
        self.drop = nn.Dropout(shape.dropout)

    @abstractmethod
    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
