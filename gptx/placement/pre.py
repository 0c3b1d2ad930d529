"""Pre-norm (GPT-2, Radford et al. 2019; Xiong et al. 2020): the residual stream itself is never normalised."""

from torch import Tensor

from gptx.attention.base import Keep, View
from gptx.placement.base import Block

ID = "placement.pre"
REVISION = 1


class Pre(Block):
    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x), view, keep))
        x = x + self.drop(self.ffn(self.norm2(x)))
        return x
