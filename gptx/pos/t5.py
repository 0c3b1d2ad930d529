"""Relative bias of T5: one learned number per head and bucket of distances (Raffel et al. 2020, section 2.1)."""

import math

import torch
from torch import Tensor, nn

from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding
from gptx.pos.range_check import above, at_least

ID = "pos.t5"
REVISION = 1


class T5(PositionalEncoding):
    """Half of the buckets hold one distance each; the others grow logarithmically up to ``max_distance``, and the last
    one holds all longer distances. The layers share the bias, as in T5; unlike in T5, logits are scaled by 1/sqrt(D).

    Args:
        buckets: number of buckets.
        max_distance: all distances of at least this many tokens share the last bucket.
    """

    relative = True

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, buckets: int, max_distance: int) -> None:
        super().__init__(shape, dim, heads)
        at_least("buckets", buckets, 2, 32)
        above("max_distance", max_distance, buckets // 2, 4 * buckets)
        self.buckets, self.max_distance = buckets, max_distance
        self.embedding = nn.Embedding(buckets, shape.n_head)

    def bias(self, head: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return self.embedding.weight[self.bucket((q_pos - k_pos).clamp(min=0)), head]

    def bucket(self, distance: Tensor) -> Tensor:
        """Return the bucket of each distance. It is computed in fp32, so that edges are rounded as in T5's code."""
        single = self.buckets // 2
        octaves = torch.log(distance.clamp(min=single).float() / single) / math.log(self.max_distance / single)
        wide = single + (octaves * (self.buckets - single)).long()
        return torch.where(distance < single, distance, wide.clamp(max=self.buckets - 1))
