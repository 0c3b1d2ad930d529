"""Forgetting attention (FoX, Lin et al. 2025, section 3): a logit falls with every gate between key and query.

Letters: B batch, T time, H query heads, G key/value heads, D head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.attention.base import Keep, View
from gptx.attention.gqa import GQA
from gptx.geometry.model_shape import ModelShape

ID = "attention.forgetting"
REVISION = 1


class Forgetting(GQA):
    """f_t = sigmoid(w x_t + b), one a key head; logit_ij = q_i.k_j scale + sum over l = j+1..i of log f_l.

    It tells the order of tokens by itself: the paper has it without a positional encoding (pos=none).
    """

    tp = {**GQA.tp, "forget": "col"}  # noqa: RUF012 - a ClassVar in the base

    def __init__(self, shape: ModelShape, *, n_kv_head: int, qk_norm: bool, softcap: float, bias: bool) -> None:
        super().__init__(shape, n_kv_head=n_kv_head, qk_norm=qk_norm, softcap=softcap, bias=bias)
        self.demands |= {"decay"}
        self.forget = nn.Linear(shape.d_model, n_kv_head)  # the paper's has a bias, whatever the others have

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q, k, v = self.project(x, view)
        gate = self.forget(x)
        log_f = F.logsigmoid(gate.to(torch.promote_types(gate.dtype, torch.float32)))  # bf16 cannot add up a row
        k, v, log_f = keep(k, v, log_f)  # (B, Tk, G, D) twice, (B, Tk, G)
        # Sums begin at the oldest token that is held: where they begin is a constant, which softmax does not see.
        high = torch.float32 if x.device.type == "mps" else torch.float64  # sums grow, and what counts are differences
        y = view.attend(q, k, v, self.head_dim**-0.5, self.softcap, decay=log_f.cumsum(dim=1, dtype=high))
        out: Tensor = self.out(y.flatten(-2))
        return out
