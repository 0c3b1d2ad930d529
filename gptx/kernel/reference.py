"""Attention as the papers write it: matmul, softmax, matmul. Serves every combination.

On a CPU in bf16 it is also the fastest for short rows, because sdpa's backward is slow there (see `auto`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel, Score, additive
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window

ID = "kernel.reference"
REVISION = 1


class Reference(Kernel):
    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        return additive(where, window, pos, self.n_head)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, Tensor)
        groups = k.shape[2]
        q = q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)  # (B, G, H/G, Tq, D)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, G, Tk, D)
        # The heads of a group fold into the time axis, so that its keys and values are read once, never copied.
        logits = (q.flatten(2, 3) * score.scale) @ k.mT  # (B, G, H/G*Tq, Tk)
        logits = capped(logits, score.softcap).unflatten(2, q.shape[2:4])  # (B, G, H/G, Tq, Tk)
        if score.decay is not None:
            decay = score.decay.transpose(1, 2)[:, :, None]  # (B, G, 1, Tk)
            high = torch.promote_types(logits.dtype, torch.float32)
            logits = logits + (decay[..., -q.shape[3] :, None] - decay[..., None, :]).to(high)
        sink = None if score.sink is None else score.sink.view(-1, 1, 1)
        weights = softmax(logits.flatten(1, 2) + mask, sink)  # (B, H, Tq, Tk)
        weights = F.dropout(weights, self.dropout).to(v.dtype)
        y = weights.unflatten(1, (groups, -1)).flatten(2, 3) @ v  # (B, G, H/G*Tq, Dv)
        out: Tensor = y.unflatten(2, q.shape[2:4]).flatten(1, 2).transpose(1, 2)
        return out


def capped(logits: Tensor, softcap: float) -> Tensor:
    """Bounded by +-softcap, where that is not 0."""
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def softmax(logits: Tensor, sink: Tensor | None) -> Tensor:
    """Weights over the last axis; with a sink (..., 1), one more logit each, they add up to less."""
    if sink is None:
        return torch.softmax(logits, dim=-1)
    column = sink.to(logits.dtype).expand(*logits.shape[:-1], 1)
    return torch.softmax(torch.cat((logits, column), dim=-1), dim=-1)[..., :-1]
