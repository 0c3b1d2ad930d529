"""Post-norm (Vaswani et al. 2017): the residual stream is normalised after each addition. It needs a warm-up."""

from torch import Tensor

from gptx.geometry.attention_view import Keep, View
from gptx.geometry.side_losses import SideLosses
from gptx.placement.base import Block

ID = "placement.post"
REVISION = 1


class Post(Block):
    """A norm after each addition. Letters: B batch, T time, D model width."""

    final_norm = False  # the last block ends with a norm

    def forward(self, x: Tensor, view: View, keep: Keep, side: SideLosses) -> Tensor:
        x = self.norm1(x + self.drop(self.attention(x, view, keep)))  # (B, T, D)
        x = self.norm2(x + self.drop(self.ffn(x, side)))  # (B, T, D)
        return x
