"""Pre-norm (GPT-2, Radford et al. 2019; Xiong et al. 2020): the residual stream itself is never normalised."""

from torch import Tensor

from gptx.geometry.attention_view import Keep, View
from gptx.geometry.side_losses import SideLosses
from gptx.placement.base import Block

ID = "placement.pre"
REVISION = 1


class Pre(Block):
    """A norm before each branch. Letters: B batch, T time, D model width."""

    def forward(self, x: Tensor, view: View, keep: Keep, side: SideLosses) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), view, keep))  # (B, T, D)
        x = x + self.drop(self.ffn(self.norm2(x), side))  # (B, T, D)
        return x
