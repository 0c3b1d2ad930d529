"""A block of your own: how attention, feed-forward network and norms are connected.

Letters: B batch, T time, D d_model.

What the base class requires, and what it offers: docs/contracts.md#placement of gptx.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.ffn.base import FFN
from gptx.geometry.attention_view import Keep, View
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.side_losses import SideLosses
from gptx.placement.base import Block


class PlacementTemplate(Block):
    """A norm before each branch, and a learned scale (D) after it.

    Args:
        shape: the sizes of the model.
        attention, ffn: of this layer.
        norm: creates one norm.
        scale: the initial scale.
    """

    def __init__(
        self, shape: ModelShape, attention: Attention, ffn: FFN, norm: Callable[[], nn.Module], *, scale: float
    ) -> None:
        super().__init__(shape, attention, ffn, norm)
        self.scale1 = nn.Parameter(torch.full((shape.d_model,), scale))
        self.scale2 = nn.Parameter(torch.full((shape.d_model,), scale))

    def forward(self, x: Tensor, view: View, keep: Keep, side: SideLosses) -> Tensor:
        x = x + self.drop(self.scale1 * self.attention(self.norm1(x), view, keep))  # (B, T, D)
        x = x + self.drop(self.scale2 * self.ffn(self.norm2(x), side))  # (B, T, D)
        return x
