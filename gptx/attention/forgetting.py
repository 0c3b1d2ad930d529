"""Forgetting attention (FoX, Lin et al. 2025, section 3): forget gates between key and query lower the logit.

Letters: B batch, T time, Tk keys, H query heads, G key/value heads, N gates, D head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.attention.gqa import GQA, HeadRMSNorm
from gptx.errors import ConfigError
from gptx.geometry.attention_view import Keep, View
from gptx.geometry.model_shape import ModelShape

ID = "attention.forgetting"
REVISION = 1
ADDED_KEYS = {"n_gate": "${.n_kv_head}", "norm_per_head": False}


class Forgetting(GQA):
    """f_t = sigmoid(w x_t + b) for each gate; logit_ij = q_i.k_j scale + sum over l = j+1..i of log f_l.

    The gates alone distinguish the order of tokens: the paper uses no positional encoding (pos=none).

    Args:
        n_gate: N, number of forget gates: H, one for each query head as in the paper (which has no grouped queries),
            or G, one for each key head.
        norm_per_head: whether the norms of qk_norm have a weight for each head, as in the authors' code since March
            2025; in the paper's experiments all heads share one.
        n_kv_head, qk_norm, softcap, bias: see `GQA`.
    """

    tp = {**GQA.tp, "forget": "col"}  # noqa: RUF012 - never changed

    def __init__(
        self,
        shape: ModelShape,
        *,
        n_kv_head: int,
        n_gate: int,
        qk_norm: bool,
        norm_per_head: bool,
        softcap: float,
        bias: bool,
    ) -> None:
        super().__init__(shape, n_kv_head=n_kv_head, qk_norm=qk_norm, softcap=softcap, bias=bias)
        if n_gate not in (shape.n_head, n_kv_head):
            raise ConfigError(
                f"attention.n_gate={n_gate}: expected model.n_head={shape.n_head} (a gate for each query head) or "
                f"attention.n_kv_head={n_kv_head} (for each key head)"
            )
        self.demands |= {"decay"}
        self.forget = nn.Linear(shape.d_model, n_gate)  # with a bias, as in the paper, whatever ``bias`` is
        if norm_per_head:
            self._norm_each_head(shape.n_head, n_kv_head, qk_norm)

    def _norm_each_head(self, n_head: int, n_kv_head: int, qk_norm: bool) -> None:
        if not qk_norm:
            raise ConfigError("attention.norm_per_head=true has no effect without norms: use attention.qk_norm=true")
        self.q_norm = HeadRMSNorm(n_head, self.head_dim, eps=1e-6)
        self.k_norm = HeadRMSNorm(n_kv_head, self.head_dim, eps=1e-6)
        unshared = {child: how for child, how in self.tp.items() if how != "shared"}
        self.tp = {**unshared, "q_norm.scale": "col", "k_norm.scale": "col"}

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q, k, v = self.project(x, view)
        gate = self.forget(x)  # (B, T, N)
        log_f = F.logsigmoid(gate.to(torch.promote_types(gate.dtype, torch.float32)))  # bf16 cannot sum a row
        k, v, log_f = keep(k, v, log_f)  # (B, Tk, G, D) twice, (B, Tk, N)
        # The sums start at the oldest cached token. Another start adds a constant, which softmax ignores.
        high = torch.float32 if x.device.type == "mps" else torch.float64  # sums are large, their differences small
        y = view.attend(q, k, v, self.score(decay=log_f.cumsum(dim=1, dtype=high)))  # (B, T, H, D)
        out: Tensor = self.out(y.flatten(-2))  # (B, T, H*D) -> (B, T, d_model)
        return out
