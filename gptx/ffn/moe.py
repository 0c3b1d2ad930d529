"""A mixture of SwiGLU experts: each token goes to the few that its router likes best (Switch Transformer, Fedus et al.
2021; Mixtral, Jiang et al. 2024).

Letters: B batch, T time, N = B*T tokens, K experts of a token, E experts, D model width, F hidden width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.errors import ConfigError
from gptx.ffn.base import FFN, hidden_width
from gptx.ffn.grouped import grouped
from gptx.geometry.model_shape import ModelShape
from gptx.hardware.device import exactly


def _autocast(device: torch.device) -> bool:
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


TYPICAL = {"capacity": 1.25, "balance": 0.01}


ID = "ffn.moe"
REVISION = 1


class MoE(FFN):
    """The sum over the K chosen experts of probability * expert(x). K experts are computed, whatever E is.

    For K > 1 the probabilities of the chosen add up to 1 (Mixtral). For K = 1 it is the router's own (Switch, equation
    2): scaled to 1 it would teach the router nothing.

    Args:
        n_expert: E.
        top_k: K.
        capacity: an expert takes the first ceil(capacity * K*T / E) choices of each row in training, and the others
            add nothing to their tokens (Switch, equation 3, with a row as the batch, so that no token depends on a
            later one); 0: it takes all. In evaluation it always does.
        balance: weight of the load-balancing loss (Switch, equations 4 to 6, for each row by itself and averaged, as in
            DeepSeek-V2: so it is the same in micro-batches and on several processes).
    """

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
        self.n_expert, self.top_k, self.capacity, self.balance_weight = n_expert, top_k, capacity, balance
        self.shares_rows = capacity > 0
        self.whole_rows = capacity > 0 or balance > 0
        self.matmul_weights = top_k * 3 * shape.d_model * hidden
        self.router = nn.Linear(shape.d_model, n_expert, bias=False)
        self.gate = nn.Parameter(torch.zeros(n_expert, shape.d_model, hidden))
        self.up = nn.Parameter(torch.zeros(n_expert, shape.d_model, hidden))
        self.out = nn.Parameter(torch.zeros(n_expert, hidden, shape.d_model))
        self.told: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        with exactly(x.device):  # in bf16, near ties would go to other experts (Switch, section 2.4)
            high = torch.promote_types(x.dtype, torch.float32)
            probability = F.linear(x.to(high), self.router.weight.to(high)).softmax(-1)  # (B, T, E)
        weight, expert = probability.topk(self.top_k, dim=-1)  # (B, T, K)
        if self.top_k > 1:
            weight = weight / weight.sum(-1, keepdim=True)
        chosen = expert[..., None] == torch.arange(self.n_expert, device=x.device)  # (B, T, K, E)
        self.balance = None
        if self.training:
            weight = self._train(weight, probability, chosen)
        low = torch.get_autocast_dtype(x.device.type) if _autocast(x.device) else x.dtype
        tokens = x.flatten(0, 1).to(low)  # autocast does not know the experts' operator
        y = self.experts(tokens, expert.flatten(), chosen.sum((0, 1, 2)))  # (N*K, D)
        return (y.view(*weight.shape, -1) * weight[..., None].to(y.dtype)).sum(2)

    def experts(self, x: Tensor, expert: Tensor, counts: Tensor) -> Tensor:
        """x (N, D), expert (N*K,) -> (N*K, D), each token by each of its experts; counts (E,) are their choices."""
        gate, up, out = (weight.to(x.dtype) for weight in (self.gate, self.up, self.out))
        counts = counts if x.is_meta else counts.cpu()
        order = expert.argsort(stable=True)
        # Copies are made before they are sorted: the gradient then adds them up in a fixed order on every device.
        x = x.repeat_interleave(self.top_k, 0)[order]  # (N*K, D) in the order of experts
        y: Tensor = grouped(F.silu(grouped(x, gate, counts)) * grouped(x, up, counts), out, counts)
        return y[order.argsort()]

    def _train(self, weight: Tensor, probability: Tensor, chosen: Tensor) -> Tensor:
        """The weights (B, T, K), 0 where an expert is full; and what there is to tell of this forward."""
        share = chosen.sum(2).to(probability.dtype).mean(1)  # f (B, E); adds up to K
        loss = self.n_expert * (share * probability.mean(1)).sum(-1).mean()
        self.balance = self.balance_weight * loss if self.balance_weight else None
        dropped = torch.zeros_like(loss)
        if self.capacity:
            kept = self._kept(chosen)
            weight, dropped = weight * kept, 1 - kept.to(loss.dtype).mean()
        self.told = {"balance_loss": loss.detach(), "dropped_share": dropped}
        return weight

    def _kept(self, chosen: Tensor) -> Tensor:
        """(B, T, K): whether the choice is among the first of its row that its expert has room for."""
        rows = chosen.flatten(1, 2)  # (B, T*K, E)
        room = math.ceil(self.capacity * rows.shape[1] / self.n_expert)
        return (rows & (rows.cumsum(1) <= room)).any(-1).view(chosen.shape[:-1])

    def metrics(self) -> dict[str, Tensor]:
        return self.told
