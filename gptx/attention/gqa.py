"""Grouped-query attention (Ainslie et al. 2023). With n_kv_head = n_head it is multi-head attention (Vaswani et al.
2017), with n_kv_head = 1 multi-query attention (Shazeer 2019): mha, gqa and mqa are three YAML files over this class.

Letters: B batch, T time, H query heads, G key/value heads, D head dim.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from gptx.attention.base import Attention, Keep, View
from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape


class RMSNorm(nn.RMSNorm):
    """In the dtype of what it is given: autocast hands it bf16, which with an fp32 weight has no fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def check_softcap(softcap: float) -> None:
    """Refuses what would leave no logits, or turn them round."""
    if softcap != 0 and softcap < 0.001:
        raise ConfigError(
            f"attention.softcap={softcap:g}: expected 0 (none) or at least 0.001: attention.softcap=50 would do"
        )


ID = "attention.gqa"
REVISION = 1


class GQA(Attention):
    """H query heads share G key/value heads: H/G times fewer key/value parameters, and as much less cache.

    Args:
        n_kv_head: G.
        qk_norm: RMS norm of each query and key head before it is rotated (Henry et al. 2020; Qwen 3).
        softcap: bound on the logits' size by softcap * tanh(logit / softcap) (Gemma 2); 0: none.
        bias: whether the projections have one.
    """

    tp = {"q": "col", "k": "col", "v": "col", "q_norm": "shared", "k_norm": "shared", "out": "row"}  # noqa: RUF012

    def __init__(self, shape: ModelShape, *, n_kv_head: int, qk_norm: bool, softcap: float, bias: bool) -> None:
        super().__init__()
        if n_kv_head < 1 or shape.n_head % n_kv_head:
            fits = [g for g in range(1, shape.n_head + 1) if shape.n_head % g == 0]
            raise ConfigError(
                f"attention.n_kv_head={n_kv_head} does not divide model.n_head={shape.n_head}: "
                f"one of {', '.join(map(str, fits))} would"
            )
        check_softcap(softcap)
        self.head_dim = self.rotary_dim = shape.head_dim
        self.kv_heads = self.rotary_heads = n_kv_head
        self.pair_width = 2 * shape.n_head * self.head_dim
        self.softcap = softcap
        self.demands = frozenset({"softcap"}) if softcap else frozenset()
        self.q = nn.Linear(shape.d_model, shape.n_head * self.head_dim, bias=bias)
        self.k = nn.Linear(shape.d_model, n_kv_head * self.head_dim, bias=bias)
        self.v = nn.Linear(shape.d_model, n_kv_head * self.head_dim, bias=bias)
        self.q_norm = RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.out = nn.Linear(shape.n_head * self.head_dim, shape.d_model, bias=bias)

    def project(self, x: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, d_model) -> rotated q (B, T, H, D) and k (B, T, G, D), and v (B, T, G, D)."""
        heads = (-1, self.head_dim)
        q, k, v = (layer(x).unflatten(-1, heads) for layer in (self.q, self.k, self.v))
        return *view.rotate(self.q_norm(q), self.k_norm(k)), v

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q, k, v = self.project(x, view)
        k, v = keep(k, v)
        y = view.attend(q, k, v, self.head_dim**-0.5, self.softcap)  # (B, T, H, D)
        out: Tensor = self.out(y.flatten(-2))
        return out
