"""Mixture of SwiGLU experts: a router sends each token to its top-k experts (Switch Transformer, Fedus et al. 2021;
Mixtral, Jiang et al. 2024).

Letters: B batch, T time, N = B*T tokens, K experts per token, E experts, D model width, F hidden width.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.errors import ConfigError
from gptx.ffn.base import FFN, hidden_width
from gptx.ffn.grouped_matmul import grouped
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.side_losses import SideLosses
from gptx.hardware.device import without_autocast

TYPICAL = {"capacity": 1.25, "balance": 0.01}  # what an error message recommends


ID = "ffn.moe"
REVISION = 1


class MoE(FFN):
    """The sum over the K chosen experts of probability * expert(x). Each token costs K experts, whatever E is.

    For K > 1 the probabilities of the chosen experts are normalised to sum to 1 (Mixtral). For K = 1 the router's own
    probability is used (Switch, equation 2): normalised to 1, it would give the router no gradient.

    Args:
        n_expert: E.
        top_k: K.
        ratio: F / D of one expert.
        multiple_of: F is rounded to a multiple of this.
        capacity: in training, an expert takes the first ceil(capacity * K*T / E) choices of each row; the other choices
            add nothing to their tokens (Switch, equation 3, per row instead of per batch, so that no token depends on
            a later one). 0: an expert takes all choices, as it always does in evaluation.
        balance: weight of the load-balancing loss (Switch, equations 4 to 6, per row and averaged over the rows, as in
            DeepSeek-V2: the loss does not depend on micro-batches or the number of processes). 0: none.

    Raises:
        ConfigError: a number is out of range.
    """

    has_side_losses: ClassVar[bool] = True

    def __init__(
        self,
        shape: ModelShape,
        *,
        n_expert: int,
        top_k: int,
        ratio: float,
        multiple_of: int,
        capacity: float,
        balance: float,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= n_expert <= 2**16:
            raise ConfigError(
                f"ffn.top_k={top_k}, ffn.n_expert={n_expert}: expected 1 <= top_k <= n_expert, such as 2 of 8"
            )
        for name, value in (("capacity", capacity), ("balance", balance)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"ffn.{name}={value}: expected 0 (none) or more, such as {TYPICAL[name]}")
        hidden = hidden_width(shape, ratio, multiple_of)
        self.n_expert, self.top_k, self.capacity, self.balance = n_expert, top_k, capacity, balance
        self.tokens_compete = capacity > 0
        self.needs_full_rows = capacity > 0 or balance > 0
        self.macs_per_token = top_k * 3 * shape.d_model * hidden
        self.router = nn.Linear(shape.d_model, n_expert, bias=False)
        self.gate = nn.Parameter(torch.zeros(n_expert, shape.d_model, hidden))
        self.up = nn.Parameter(torch.zeros(n_expert, shape.d_model, hidden))
        self.out = nn.Parameter(torch.zeros(n_expert, hidden, shape.d_model))

    def forward(self, x: Tensor, side: SideLosses) -> Tensor:
        probability = self.route(x)  # (B, T, E)
        weight, expert = probability.topk(self.top_k, dim=-1)  # (B, T, K)
        if self.top_k > 1:
            weight = weight / weight.sum(-1, keepdim=True)
        chosen = expert[..., None] == torch.arange(self.n_expert, device=x.device)  # (B, T, K, E)
        if self.training:
            within = self.within_capacity(chosen) if self.capacity else None
            weight = weight if within is None else weight * within
            self.collect(side, probability, chosen, within)
        tokens = x.flatten(0, 1).to(_autocast_dtype(x))  # (N, D)
        y = self.experts(tokens, expert.flatten(), chosen.sum((0, 1, 2)))  # (N*K, D)
        return (y.view(*weight.shape, -1) * weight[..., None].to(y.dtype)).sum(2)  # (B, T, K, D) -> (B, T, D)

    def route(self, x: Tensor) -> Tensor:
        """(B, T, D) -> the router's probabilities (B, T, E), in fp32 or more: in bf16, the order of nearly equal
        probabilities would change (Switch, section 2.4)."""
        with without_autocast(x.device):
            high = torch.promote_types(x.dtype, torch.float32)
            return F.linear(x.to(high), self.router.weight.to(high)).softmax(-1)

    def experts(self, x: Tensor, expert: Tensor, counts: Tensor) -> Tensor:
        """x (N, D), expert (N*K,) -> (N*K, D), each token by each of its experts; counts (E,) of each expert."""
        gate, up, out = (weight.to(x.dtype) for weight in (self.gate, self.up, self.out))
        counts = counts if x.is_meta else counts.cpu()
        order = expert.argsort(stable=True)
        # Tokens are copied before they are sorted: so their gradients are summed in a fixed order on every device.
        x = x.repeat_interleave(self.top_k, 0)[order]  # (N*K, D) sorted by expert
        y: Tensor = grouped(F.silu(grouped(x, gate, counts)) * grouped(x, up, counts), out, counts)
        return y[order.argsort()]

    def collect(self, side: SideLosses, probability: Tensor, chosen: Tensor, within: Tensor | None) -> None:
        """Add the load-balancing loss, and report it and the share of choices that exceed the capacity."""
        share = chosen.sum(2).to(probability.dtype).mean(1)  # f (B, E); sums to K
        loss = self.n_expert * (share * probability.mean(1)).sum(-1).mean()
        if self.balance:
            side.add(self.balance * loss)
        side.report("balance_loss", loss)
        side.report("dropped_share", torch.zeros_like(loss) if within is None else 1 - within.to(loss.dtype).mean())

    def within_capacity(self, chosen: Tensor) -> Tensor:
        """(B, T, K, E) -> (B, T, K): whether the choice is among the first of its row that its expert takes."""
        choices = chosen.flatten(1, 2)  # (B, T*K, E)
        most = math.ceil(self.capacity * choices.shape[1] / self.n_expert)
        return (choices & (choices.cumsum(1) <= most)).any(-1).view(chosen.shape[:-1])


def _autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products under autocast, which does not cover the experts' operator."""
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
