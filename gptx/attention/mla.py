"""Multi-head latent attention (DeepSeek-V2, 2024, section 2.1, equations 9 to 19).

Letters: B batch, T time, H heads, D head dim, R rotary dims, C rank of the latent.
"""

import torch
from torch import Tensor, nn

from gptx.attention.base import Attention, Keep, View
from gptx.attention.gqa import RMSNorm, check_softcap
from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape

ID = "attention.mla"
REVISION = 1


class MLA(Attention):
    """Keys and values of all heads are made of one latent (C) a token, and that is what the cache holds. Latents are
    not rotated: each head has R more dims for positions, whose key all heads share.

    As in DeepSeek's models the projections that follow a norm have no bias, and neither have full queries.

    Args:
        kv_rank: C; 0: the paper's 4 D.
        q_rank: rank of the queries; 0: full.
        rope_dim: R; 0: the paper's D/2, made even.
        softcap: bound on the logits' size by softcap * tanh(logit / softcap); 0: none.
        bias: whether the projections from and to the model's width have one.
    """

    tp = {"q": "col", "kv": "col", "k": "whole", "out": "row"}  # noqa: RUF012 - a ClassVar in the base

    def __init__(
        self, shape: ModelShape, *, kv_rank: int, q_rank: int, rope_dim: int, softcap: float, bias: bool
    ) -> None:
        super().__init__()
        for name, given in (("kv_rank", kv_rank), ("q_rank", q_rank)):
            if not 0 <= given <= 2**20:
                raise ConfigError(f"attention.{name}={given}: expected 0 or more: attention.{name}=64 would do")
        if not 0 <= rope_dim <= 2**20 or rope_dim % 2:
            raise ConfigError(f"attention.rope_dim={rope_dim}: expected an even number: attention.rope_dim=16 would do")
        check_softcap(softcap)
        self.kv_heads = heads = shape.n_head
        self.head_dim = shape.head_dim
        self.rotary_dim, self.rotary_heads = rope_dim or max(2, self.head_dim // 4 * 2), 1
        self.key_dim, rank = self.head_dim + self.rotary_dim, kv_rank or 4 * self.head_dim
        self.pair_width = heads * (self.key_dim + self.head_dim)
        self.softcap = softcap
        self.demands = frozenset({"softcap"}) if softcap else frozenset()
        self.q_down = nn.Linear(shape.d_model, q_rank, bias=bias) if q_rank else nn.Identity()
        self.q_norm = RMSNorm(q_rank, eps=1e-6) if q_rank else nn.Identity()
        self.q = nn.Linear(q_rank or shape.d_model, heads * self.key_dim, bias=False)
        self.kv_down = nn.Linear(shape.d_model, rank, bias=bias)
        self.kv_norm = RMSNorm(rank, eps=1e-6)
        self.kv = nn.Linear(rank, heads * 2 * self.head_dim, bias=False)
        self.k = nn.Linear(shape.d_model, self.rotary_dim, bias=bias)  # the shared rotary key
        self.out = nn.Linear(heads * self.head_dim, shape.d_model, bias=bias)

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q = self.q(self.q_norm(self.q_down(x))).unflatten(-1, (-1, self.key_dim))
        q, turned = q.split((self.head_dim, self.rotary_dim), dim=-1)  # (B, T, H, D), (B, T, H, R)
        turned, k = view.rotate(turned, self.k(x)[:, :, None])
        latent, k = keep(self.kv_norm(self.kv_down(x)), k)  # (B, Tk, C), (B, Tk, 1, R)
        # Fewer queries than keys, and than a head has dims: making keys and values of all latents would cost more.
        absorb = x.shape[1] < min(latent.shape[1], self.head_dim)
        y = (self.absorbed if absorb else self.expanded)(q, turned, latent, k, view)  # (B, T, H, D)
        out: Tensor = self.out(y.flatten(-2))
        return out

    def expanded(self, q: Tensor, turned: Tensor, latent: Tensor, shared: Tensor, view: View) -> Tensor:
        """Keys and values of every head, as the equations have it."""
        k, v = self.kv(latent).unflatten(-1, (-1, 2 * self.head_dim)).chunk(2, dim=-1)  # (B, Tk, H, D) each
        k = torch.cat((k, shared.expand(-1, -1, k.shape[2], -1)), dim=-1)
        return view.attend(torch.cat((q, turned), dim=-1), k, v, self.key_dim**-0.5, self.softcap)

    def absorbed(self, q: Tensor, turned: Tensor, latent: Tensor, shared: Tensor, view: View) -> Tensor:
        """The same by q.(W c) = (W^T q).c: queries go to the latents, which are one key/value head for all of them."""
        to_k, to_v = self.kv.weight.unflatten(0, (-1, 2 * self.head_dim)).chunk(2, dim=1)  # (H, D, C) each
        q = torch.cat((torch.einsum("bthd,hdc->bthc", q, to_k), turned), dim=-1)
        k, v = torch.cat((latent[:, :, None], shared), dim=-1), latent[:, :, None]
        y = view.attend(q, k, v, self.key_dim**-0.5, self.softcap)  # (B, T, H, C)
        return torch.einsum("bthc,hdc->bthd", y, to_v)
