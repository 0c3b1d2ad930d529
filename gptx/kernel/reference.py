"""Attention as in the papers: product, softmax, product. Supports every window, encoding and feature.

On a CPU in bf16 it is also the fastest kernel for short rows, because the backward of sdpa is slow there (see `auto`).

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gptx.geometry.attention_view import Score
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel, additive
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window

ID = "kernel.reference"
REVISION = 1


class Reference(Kernel):
    """The kernel that all others are tested against. Its mask is an additive tensor (B or 1, H or 1, Tq, Tk)."""

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        return additive(where, window, pos, self.n_head)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, Tensor)
        groups = k.shape[2]
        q = q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)  # (B, G, H/G, Tq, D)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, G, Tk, D)
        # The query heads of a group are folded into the time axis: its keys and values are read once, not copied.
        logits = (q.flatten(2, 3) * score.scale) @ k.mT  # (B, G, H/G*Tq, Tk)
        logits = capped(logits, score.softcap).unflatten(2, q.shape[2:4])  # (B, G, H/G, Tq, Tk)
        if score.decay is not None:
            decay = score.decay.transpose(1, 2).unflatten(1, (groups, -1))  # (B, G, 1 or H/G, Tk)
            high = torch.promote_types(logits.dtype, torch.float32)
            logits = logits + (decay[..., -q.shape[3] :, None] - decay[..., None, :]).to(high)
        sink = None if score.sink is None else score.sink.view(-1, 1, 1)  # (H, 1, 1)
        weights = softmax(logits.flatten(1, 2) + mask, sink)  # (B, H, Tq, Tk)
        weights = F.dropout(weights, self.dropout).to(v.dtype)
        y = weights.unflatten(1, (groups, -1)).flatten(2, 3) @ v  # (B, G, H/G*Tq, Dv)
        out: Tensor = y.unflatten(2, q.shape[2:4]).flatten(1, 2).transpose(1, 2)  # (B, Tq, H, Dv)
        return out


def capped(logits: Tensor, softcap: float) -> Tensor:
    """Bound the logits by +-softcap; a softcap of 0 leaves them unchanged."""
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def softmax(logits: Tensor, sink: Tensor | None) -> Tensor:
    """Softmax over the last axis. With a sink (..., 1), one more logit per row, the weights sum to less than 1."""
    if sink is None:
        return torch.softmax(logits, dim=-1)
    column = sink.to(logits.dtype).expand(*logits.shape[:-1], 1)
    return torch.softmax(torch.cat((logits, column), dim=-1), dim=-1)[..., :-1]
