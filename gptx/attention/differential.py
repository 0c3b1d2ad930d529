"""Differential attention (Ye et al. 2024): the difference of two softmaxes, which cancels what they have in common.

Letters: B batch, T time, Tk keys, H query heads, G key/value heads, D head dim.
"""

import math

import torch
from torch import Tensor, nn

from gptx.attention.gqa import GQA, AttentionRMSNorm
from gptx.errors import ConfigError
from gptx.geometry.attention_view import Keep, View
from gptx.geometry.model_shape import ModelShape

ID = "attention.differential"
REVISION = 1
ADDED_KEYS = {"lambda_rise": 0.0, "norm_weight": False}


class Differential(GQA):
    """Key/value heads 2p and 2p+1 form a pair. Each has its own keys; both use the values of both, concatenated (2D).
    The output of the second head's queries is subtracted from that of the first (equations 1 to 3):

        y = (1 - lambda_init) RMSNorm((softmax(q1 k1) - lambda softmax(q2 k2)) v)
        lambda = exp(lambda_q1.lambda_k1) - exp(lambda_q2.lambda_k2) + lambda_init

    The heads of a pair are adjacent, so that tensor parallelism can distribute pairs; DiffLlama pairs head h with
    head h + H/2 instead.

    Args:
        lambda_init: approximate initial value of lambda in deep layers, in [0, 1).
        lambda_rise: in layer l, counted from 0, the initial value is lambda_init - lambda_rise exp(-0.3 l). The paper
            uses 0.8 and 0.6, and reports about equal results for one value in all layers (lambda_rise = 0).
        norm_weight: whether the RMS norm has a learned weight (2D), as in the authors' code; DiffLlama has none.
        n_kv_head, qk_norm, softcap, bias: see `GQA`; ``n_kv_head`` must be even.
    """

    tp = GQA.tp | dict.fromkeys(("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2", "pair_norm"), "shared")
    head_group = 2

    def __init__(
        self,
        shape: ModelShape,
        *,
        n_kv_head: int,
        lambda_init: float,
        lambda_rise: float,
        norm_weight: bool,
        qk_norm: bool,
        softcap: float,
        bias: bool,
    ) -> None:
        drawn = 0.1 * torch.randn(4, shape.head_dim)  # drawn first, so that it does not depend on the other options
        super().__init__(shape, n_kv_head=n_kv_head, qk_norm=qk_norm, softcap=softcap, bias=bias)
        if n_kv_head % 2:
            even = shape.n_head + shape.n_head % 2
            raise ConfigError(
                f"attention=differential subtracts heads in pairs, given attention.n_kv_head={n_kv_head} of "
                f"model.n_head={shape.n_head}, an odd number; use attention.n_kv_head={even} model.n_head={even} "
                f"model.d_model={even * self.head_dim}"
            )
        check_lambda(lambda_init, lambda_rise)
        self.queries_per_key = shape.n_head // n_kv_head  # H/G
        self.deepest, self.rise = lambda_init, lambda_rise
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (nn.Parameter(row.clone()) for row in drawn)
        self.pair_norm = AttentionRMSNorm(2 * self.head_dim, eps=1e-5, elementwise_affine=norm_weight)
        self.at(0, shape.n_layer)

    def at(self, layer: int, n_layer: int) -> "Differential":
        self.lambda_init = self.deepest - self.rise * math.exp(-0.3 * layer)
        return self

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        q, k, v = self.project(x, view)
        k, v = keep(k, v)  # (B, Tk, G, D)
        v = v.unflatten(2, (-1, 2)).flatten(-2).repeat_interleave(2, dim=2)  # (B, Tk, G/2, 2D) -> (B, Tk, G, 2D)
        y = view.attend(q, k, v, self.score())  # (B, T, H, 2D)
        first, second = y.unflatten(2, (-1, 2, self.queries_per_key)).unbind(3)  # (B, T, G/2, H/G, 2D) each
        y = self.pair_norm(first - self.factor() * second)
        out: Tensor = self.out((1 - self.lambda_init) * y.flatten(-3))  # (B, T, H*D) -> (B, T, d_model)
        return out

    def factor(self) -> Tensor:
        """lambda, a scalar."""
        one, two = (self.lambda_q1 * self.lambda_k1).sum(), (self.lambda_q2 * self.lambda_k2).sum()
        return one.exp() - two.exp() + self.lambda_init


def check_lambda(init: float, rise: float) -> None:
    """Reject initial values of lambda that are outside [0, 1) in some layer."""
    if not 0 <= init < 1:
        raise ConfigError(f"attention.lambda_init={init}: expected 0 <= lambda_init < 1, such as 0.8")
    if not 0 <= rise <= init:
        raise ConfigError(
            f"attention.lambda_rise={rise} with attention.lambda_init={init}: expected 0 (the same lambda_init in all "
            f"layers) to {init}, such as {0.75 * init:g}"
        )
