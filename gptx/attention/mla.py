"""Multi-head latent attention (DeepSeek-V2, 2024, section 2.1, equations 9 to 19).

Letters: B batch, T time, Tk keys, H heads, D head dim, R rotated dims, C rank of the latent.
"""

import torch
from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.attention.gqa import AttentionRMSNorm, check_softcap
from gptx.errors import ConfigError
from gptx.geometry.attention_view import Keep, Score, View
from gptx.geometry.model_shape import ModelShape

ID = "attention.mla"
REVISION = 1


class MLA(Attention):
    """Keys and values of all heads are projected from one latent vector (C) per token, and only the latent is cached.
    Latents are not rotated: each head has R additional dims for positions, whose key is shared by all heads.

    As in DeepSeek's models, full-rank queries and the projections after a norm have no bias.

    Args:
        kv_rank: C; 0: 4 D, as in the paper.
        q_rank: rank of the queries; 0: full rank.
        rope_dim: R, even; 0: D/2 rounded down to an even number, as in the paper.
        softcap: bound on the logits' size, by softcap * tanh(logit / softcap); 0: none.
        bias: whether the projections from and to the residual stream have a bias.

    Raises:
        ConfigError: a size is out of range.
    """

    tp = {"q": "col", "kv": "col", "k": "replicated", "out": "row"}  # noqa: RUF012 - never changed

    def __init__(
        self, shape: ModelShape, *, kv_rank: int, q_rank: int, rope_dim: int, softcap: float, bias: bool
    ) -> None:
        super().__init__()
        for name, given in (("kv_rank", kv_rank), ("q_rank", q_rank)):
            if not 0 <= given <= 2**20:
                raise ConfigError(f"attention.{name}={given}: expected 0 or more; use attention.{name}=64")
        if not 0 <= rope_dim <= 2**20 or rope_dim % 2:
            raise ConfigError(f"attention.rope_dim={rope_dim}: expected an even number; use attention.rope_dim=16")
        check_softcap(softcap)
        self.kv_heads = heads = shape.n_head
        self.head_dim = shape.head_dim
        self.rotary_dim, self.rotary_heads = rope_dim or max(2, self.head_dim // 4 * 2), 1
        self.key_dim, rank = self.head_dim + self.rotary_dim, kv_rank or 4 * self.head_dim
        self.score = Score(self.key_dim**-0.5, softcap)
        self.demands = frozenset({"softcap"}) if softcap else frozenset()
        self.q_down = nn.Linear(shape.d_model, q_rank, bias=bias) if q_rank else nn.Identity()
        self.q_norm = AttentionRMSNorm(q_rank, eps=1e-6) if q_rank else nn.Identity()
        self.q = nn.Linear(q_rank or shape.d_model, heads * self.key_dim, bias=False)
        self.kv_down = nn.Linear(shape.d_model, rank, bias=bias)
        self.kv_norm = AttentionRMSNorm(rank, eps=1e-6)
        self.kv = nn.Linear(rank, heads * 2 * self.head_dim, bias=False)
        self.k = nn.Linear(shape.d_model, self.rotary_dim, bias=bias)  # the rotated key that all heads share
        self.out = nn.Linear(heads * self.head_dim, shape.d_model, bias=bias)

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q = self.q(self.q_norm(self.q_down(x))).unflatten(-1, (-1, self.key_dim))  # (B, T, H, D + R)
        q, rotated = q.split((self.head_dim, self.rotary_dim), dim=-1)  # (B, T, H, D), (B, T, H, R)
        rotated, k = view.rotate(rotated, self.k(x)[:, :, None])  # (B, T, H, R), (B, T, 1, R)
        latent, k = keep(self.kv_norm(self.kv_down(x)), k)  # (B, Tk, C), (B, Tk, 1, R)
        # With fewer queries than keys and than dims of a head, expanding all latents to keys and values costs more.
        absorb = x.shape[1] < min(latent.shape[1], self.head_dim)
        y = (self.absorbed if absorb else self.expanded)(q, rotated, latent, k, view)  # (B, T, H, D)
        out: Tensor = self.out(y.flatten(-2))  # (B, T, H*D) -> (B, T, d_model)
        return out

    def expanded(self, q: Tensor, rotated: Tensor, latent: Tensor, shared: Tensor, view: View) -> Tensor:
        """Expand the latents to keys and values of every head, as in the equations; return (B, T, H, D)."""
        k, v = self.kv(latent).unflatten(-1, (-1, 2 * self.head_dim)).chunk(2, dim=-1)  # (B, Tk, H, D) each
        k = torch.cat((k, shared.expand(-1, -1, k.shape[2], -1)), dim=-1)  # (B, Tk, H, D + R)
        return view.attend(torch.cat((q, rotated), dim=-1), k, v, self.score)

    def absorbed(self, q: Tensor, rotated: Tensor, latent: Tensor, shared: Tensor, view: View) -> Tensor:
        """The same result by q.(W c) = (W^T q).c: queries are projected to the space of the latents, which then are
        one key/value head for all query heads; return (B, T, H, D)."""
        to_k, to_v = self.kv.weight.unflatten(0, (-1, 2 * self.head_dim)).chunk(2, dim=1)  # (H, D, C) each
        q = torch.cat((torch.einsum("bthd,hdc->bthc", q, to_k), rotated), dim=-1)  # (B, T, H, C + R)
        k, v = torch.cat((latent[:, :, None], shared), dim=-1), latent[:, :, None]  # (B, Tk, 1, C + R or C)
        y = view.attend(q, k, v, self.score)  # (B, T, H, C)
        return torch.einsum("bthc,hdc->bthd", y, to_v)
