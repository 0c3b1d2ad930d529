"""Gated attention (Qiu et al. 2025, section 2.2, position G1; Qwen3-Next): a sigmoid gate on the output of each head.

Letters: B batch, T time, Tk keys, H query heads, G key/value heads, D head dim.
"""

from torch import Tensor, nn

from gptx.attention.gqa import GQA
from gptx.geometry.attention_view import Keep, View
from gptx.geometry.model_shape import ModelShape

ID = "attention.gated"
REVISION = 1


class Gated(GQA):
    """out(y * sigmoid(gate(x))), where y is the output of the heads and x the input of the query projection.

    Args:
        per_head: one gate per head instead of one per dim of each head.
        n_kv_head, qk_norm, softcap, bias: see `GQA`.
    """

    tp = {**GQA.tp, "gate": "col"}  # noqa: RUF012 - never changed

    def __init__(
        self, shape: ModelShape, *, n_kv_head: int, per_head: bool, qk_norm: bool, softcap: float, bias: bool
    ) -> None:
        super().__init__(shape, n_kv_head=n_kv_head, qk_norm=qk_norm, softcap=softcap, bias=bias)
        self.gate_dim = 1 if per_head else self.head_dim
        self.gate = nn.Linear(shape.d_model, shape.n_head * self.gate_dim, bias=bias)

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q, k, v = self.project(x, view)
        k, v = keep(k, v)  # (B, Tk, G, D)
        y = view.attend(q, k, v, self.score())  # (B, T, H, D)
        y = y * self.gate(x).sigmoid().unflatten(-1, (-1, self.gate_dim))  # times (B, T, H, D or 1)
        out: Tensor = self.out(y.flatten(-2))  # (B, T, H*D) -> (B, T, d_model)
        return out
