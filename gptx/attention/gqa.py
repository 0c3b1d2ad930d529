"""Grouped-query attention (Ainslie et al. 2023). With n_kv_head = n_head it is multi-head attention (Vaswani et al.
2017), with n_kv_head = 1 multi-query attention (Shazeer 2019): mha, gqa and mqa are three YAML files for this class.

Letters: B batch, T time, Tk keys, H query heads, G key/value heads, D head dim, R rotated dims.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.errors import ConfigError
from gptx.geometry.attention_view import Keep, Score, View
from gptx.geometry.model_shape import ModelShape


class AttentionRMSNorm(nn.RMSNorm):
    """RMS norm over heads or latents, computed in the dtype of its input: under autocast the input is bf16, and with
    an fp32 weight torch would have no fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class HeadParameters(nn.Module):
    """Learned numbers, as many for each head, in one vector of ones. In a separate module that tensor parallelism can
    split by heads."""

    def __init__(self, heads: int, each: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads * each))

    def forward(self) -> Tensor:
        return self.weight


class HeadRMSNorm(nn.Module):
    """RMS norm of heads (B, T, heads, D), with a weight (D,) for each head."""

    def __init__(self, heads: int, dim: int, *, eps: float) -> None:
        super().__init__()
        self.eps, self.scale = eps, HeadParameters(heads, dim)

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.scale().to(x.dtype).view(-1, x.shape[-1])  # (heads, D)
        return F.rms_norm(x, x.shape[-1:], eps=self.eps) * weight


def check_softcap(softcap: float) -> None:
    """Reject a softcap that is negative, or so small that all logits are nearly 0."""
    if softcap != 0 and softcap < 0.001:
        raise ConfigError(
            f"attention.softcap={softcap:g}: expected 0 (none) or at least 0.001; use attention.softcap=50"
        )


ID = "attention.gqa"
REVISION = 1


class GQA(Attention):
    """H query heads share G key/value heads: H/G times fewer key/value parameters, and a cache H/G times smaller.

    Args:
        n_kv_head: G, a divisor of H.
        qk_norm: RMS norm of each query and key head before the rotation (Henry et al. 2020; Qwen 3).
        softcap: bound on the logits' size, by softcap * tanh(logit / softcap) (Gemma 2); 0: none.
        bias: whether the projections have a bias.

    Raises:
        ConfigError: ``n_kv_head`` does not divide ``n_head``, or ``softcap`` is out of range.
    """

    tp = {"q": "col", "k": "col", "v": "col", "q_norm": "shared", "k_norm": "shared", "out": "row"}  # noqa: RUF012

    def __init__(self, shape: ModelShape, *, n_kv_head: int, qk_norm: bool, softcap: float, bias: bool) -> None:
        super().__init__()
        if n_kv_head < 1 or shape.n_head % n_kv_head:
            divisors = [g for g in range(1, shape.n_head + 1) if shape.n_head % g == 0]
            raise ConfigError(
                f"attention.n_kv_head={n_kv_head} does not divide model.n_head={shape.n_head}: "
                f"expected one of {', '.join(map(str, divisors))}"
            )
        check_softcap(softcap)
        self.head_dim = self.rotary_dim = shape.head_dim
        self.kv_heads = self.rotary_heads = n_kv_head
        self.softcap = softcap
        self.demands = frozenset({"softcap"}) if softcap else frozenset()
        self.q = nn.Linear(shape.d_model, shape.n_head * self.head_dim, bias=bias)
        self.k = nn.Linear(shape.d_model, n_kv_head * self.head_dim, bias=bias)
        self.v = nn.Linear(shape.d_model, n_kv_head * self.head_dim, bias=bias)
        self.q_norm: nn.Module = AttentionRMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = AttentionRMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.out = nn.Linear(shape.n_head * self.head_dim, shape.d_model, bias=bias)

    def score(self, sink: Tensor | None = None, decay: Tensor | None = None) -> Score:
        """Logits scaled by 1/sqrt(D), with the softcap."""
        return Score(self.head_dim**-0.5, self.softcap, sink, decay)

    def project(self, x: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, d_model) -> rotated q (B, T, H, D), rotated k (B, T, G, D) and v (B, T, G, D)."""
        heads = (-1, self.head_dim)
        q, k, v = (layer(x).unflatten(-1, heads) for layer in (self.q, self.k, self.v))  # (B, T, H or G, D)
        return *view.rotate(self.q_norm(q), self.k_norm(k)), v

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q, k, v = self.project(x, view)
        k, v = keep(k, v)  # (B, Tk, G, D)
        y = view.attend(q, k, v, self.score())  # (B, T, H, D)
        out: Tensor = self.out(y.flatten(-2))  # (B, T, H*D) -> (B, T, d_model)
        return out
