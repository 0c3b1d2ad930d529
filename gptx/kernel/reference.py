"""Attention as the papers write it: matmul, softmax, matmul. Serves every combination.

On a CPU in bf16 it is also the fastest, because sdpa's backward is slow there (see `auto`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gptx.kernel.base import Kernel, additive
from gptx.pos.base import PositionalEncoding
from gptx.where import Where
from gptx.window.base import Window


class Reference(Kernel):
    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        return additive(where, window, pos, self.n_head)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, scale: float) -> Tensor:
        assert isinstance(mask, Tensor)
        groups = k.shape[2]
        q = q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)  # (B, G, H/G, Tq, D)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, G, Tk, D)
        # The heads of a group fold into the time axis, so that its keys and values are read once, never copied.
        scores = (q.flatten(2, 3) * scale) @ k.mT  # (B, G, H/G*Tq, Tk)
        scores = scores.unflatten(2, q.shape[2:4]).flatten(1, 2) + mask  # (B, H, Tq, Tk)
        weights = F.dropout(torch.softmax(scores, dim=-1), self.dropout).to(v.dtype)
        y = weights.unflatten(1, (groups, -1)).flatten(2, 3) @ v  # (B, G, H/G*Tq, Dv)
        out: Tensor = y.unflatten(2, q.shape[2:4]).flatten(1, 2).transpose(1, 2)
        return out
