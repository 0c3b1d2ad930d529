"""Forgetting attention (FoX, Lin et al. 2025, section 3): forget gates between key and query lower the logit.

Letters: B batch, T time, Tk keys, H query heads, G key/value heads, D head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.attention.gqa import GQA
from gptx.geometry.attention_view import Keep, View
from gptx.geometry.model_shape import ModelShape

ID = "attention.forgetting"
REVISION = 1


class Forgetting(GQA):
    """f_t = sigmoid(w x_t + b), one gate per key head; logit_ij = q_i.k_j scale + sum over l = j+1..i of log f_l.

    The gates alone distinguish the order of tokens: the paper uses no positional encoding (pos=none). Args: see `GQA`.
    """

    tp = {**GQA.tp, "forget": "col"}  # noqa: RUF012 - a ClassVar in the base

    def __init__(self, shape: ModelShape, *, n_kv_head: int, qk_norm: bool, softcap: float, bias: bool) -> None:
        super().__init__(shape, n_kv_head=n_kv_head, qk_norm=qk_norm, softcap=softcap, bias=bias)
        self.demands |= {"decay"}
        self.forget = nn.Linear(shape.d_model, n_kv_head)  # with a bias, as in the paper, whatever ``bias`` is

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q, k, v = self.project(x, view)
        gate = self.forget(x)  # (B, T, G)
        log_f = F.logsigmoid(gate.to(torch.promote_types(gate.dtype, torch.float32)))  # bf16 cannot sum a row
        k, v, log_f = keep(k, v, log_f)  # (B, Tk, G, D) twice, (B, Tk, G)
        # The sums start at the oldest cached token. Another start adds a constant, which softmax ignores.
        high = torch.float32 if x.device.type == "mps" else torch.float64  # sums are large, their differences small
        y = view.attend(q, k, v, self.score(decay=log_f.cumsum(dim=1, dtype=high)))  # (B, T, H, D)
        out: Tensor = self.out(y.flatten(-2))  # (B, T, H*D) -> (B, T, d_model)
        return out
