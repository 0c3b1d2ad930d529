"""Post-norm (Vaswani et al. 2017): the residual stream is normalised after each addition. It wants a warm-up."""

from torch import Tensor

from gptx.attention.base import Keep, View
from gptx.placement.base import Block

ID = "placement.post"
REVISION = 1


class Post(Block):
    final_norm = False  # the last block ends with one

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        x = self.norm1(x + self.drop(self.attention(x, view, keep)))
        x = self.norm2(x + self.drop(self.ffn(x)))
        return x
