"""Peri-norm, also called sandwich norm: norms on both sides of each branch (Ding et al. 2021; Gemma 2; Kim et al.
2025)."""

from collections.abc import Callable

from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.ffn.base import FFN
from gptx.geometry.attention_view import Keep, View
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.side_losses import SideLosses
from gptx.placement.base import Block

ID = "placement.peri"
REVISION = 1


class Peri(Block):
    """A norm before and after each branch; the residual stream itself is not normalised. Letters: B batch, T time, D
    model width."""

    def __init__(self, shape: ModelShape, attention: Attention, ffn: FFN, norm: Callable[[], nn.Module]) -> None:
        super().__init__(shape, attention, ffn, norm)
        self.after1, self.after2 = norm(), norm()

    def forward(self, x: Tensor, view: View, keep: Keep, side: SideLosses) -> Tensor:
        x = x + self.drop(self.after1(self.attention(self.norm1(x), view, keep)))  # (B, T, D)
        x = x + self.drop(self.after2(self.ffn(self.norm2(x), side)))  # (B, T, D)
        return x
