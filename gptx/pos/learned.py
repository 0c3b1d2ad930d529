"""Learned absolute positions, added to the embeddings (GPT-2, Radford et al. 2019)."""

from torch import Tensor, nn

from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding

ID = "pos.learned"
REVISION = 1


class Learned(PositionalEncoding):
    """One vector per position of the trained context; longer input is rejected."""

    def __init__(self, shape: ModelShape, dim: int, heads: int) -> None:
        super().__init__(shape, dim, heads)
        self.max_length = shape.context
        self.embedding = nn.Embedding(shape.context, shape.d_model)

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        embedded: Tensor = x + self.embedding(pos)
        return embedded
