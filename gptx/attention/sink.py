"""Attention with learned sinks (gpt-oss, OpenAI 2025; Miller 2023): a head may put its weight on no token at all.

Letters: B batch, T time, Tk keys, H query heads, G key/value heads, D head dim.
"""

import torch
from torch import Tensor, nn

from gptx.attention.gqa import GQA
from gptx.geometry.attention_view import Keep, View
from gptx.geometry.model_shape import ModelShape


class SinkLogits(nn.Module):
    """One learned logit per head, (H,), initialised to 0. In a separate module that tensor parallelism can split."""

    def __init__(self, n_head: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_head))

    def forward(self) -> Tensor:
        return self.weight


ID = "attention.sink"
REVISION = 1


class Sink(GQA):
    """Softmax over the keys and one additional logit per head that has no value: exp(l_j) / (exp(sink_h) + sum exp(l)).

    At initialisation the additional logit is 0, which is Miller's softmax-off-by-one. Args: see `GQA`.
    """

    tp = {**GQA.tp, "sink": "col"}  # noqa: RUF012 - never changed

    def __init__(self, shape: ModelShape, *, n_kv_head: int, qk_norm: bool, softcap: float, bias: bool) -> None:
        super().__init__(shape, n_kv_head=n_kv_head, qk_norm=qk_norm, softcap=softcap, bias=bias)
        self.demands |= {"sink"}
        self.sink = SinkLogits(shape.n_head)

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q, k, v = self.project(x, view)
        k, v = keep(k, v)  # (B, Tk, G, D)
        y = view.attend(q, k, v, self.score(sink=self.sink()))  # (B, T, H, D)
        out: Tensor = self.out(y.flatten(-2))  # (B, T, H*D) -> (B, T, d_model)
        return out
