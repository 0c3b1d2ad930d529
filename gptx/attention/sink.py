"""Attention with a learned sink (gpt-oss, OpenAI 2025; Miller 2023): each head may look at nothing.

Letters: B batch, T time, H query heads, G key/value heads, D head dim.
"""

import torch
from torch import Tensor, nn

from gptx.attention.base import Keep, View
from gptx.attention.gqa import GQA
from gptx.geometry.model_shape import ModelShape


class PerHead(nn.Module):
    """One learned number a head, (H,), from 0."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads))

    def forward(self) -> Tensor:
        return self.weight


ID = "attention.sink"
REVISION = 1


class Sink(GQA):
    """softmax over the keys and one more logit a head, which has no value: exp(l_j) / (exp(sink_h) + sum exp(l)).

    It begins at 0, which is Miller's softmax-off-by-one.
    """

    tp = {**GQA.tp, "sink": "col"}  # noqa: RUF012 - a ClassVar in the base

    def __init__(self, shape: ModelShape, *, n_kv_head: int, qk_norm: bool, softcap: float, bias: bool) -> None:
        super().__init__(shape, n_kv_head=n_kv_head, qk_norm=qk_norm, softcap=softcap, bias=bias)
        self.demands |= {"sink"}
        self.sink = PerHead(shape.n_head)

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q, k, v = self.project(x, view)
        k, v = keep(k, v)
        y = view.attend(q, k, v, self.head_dim**-0.5, self.softcap, sink=self.sink())  # (B, T, H, D)
        out: Tensor = self.out(y.flatten(-2))
        return out
