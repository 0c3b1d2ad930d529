"""Attention over a band: time and memory linear in the context, for windows with a reach (Longformer, Beltagy et al.
2020, section 3.1, computes sliding windows in such chunks).

The queries are split into chunks. Each chunk attends to its own keys and to those of the preceding chunks that its
window can reach. The queries are always the last tokens of the keys, so one formula covers full rows, chunks of a
prompt and single tokens.

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim, n chunks, C queries per chunk,
P earlier keys that a chunk sees, W = P + C.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptx.geometry.attention_view import Score
from gptx.geometry.visibility import Where, visible
from gptx.kernel.banded_chunks import Chunks
from gptx.kernel.base import Kernel
from gptx.kernel.reference import capped, softmax
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


@dataclass(frozen=True, eq=False)
class Band:
    """The mask of this kernel.

    Attributes:
        hidden: (B or 1, n, C, W) added to the logits: 0 where visible, -inf elsewhere; bf16, in which both are exact.
        bias: (B or 1, H, n or 1, C, W), finite; None: no bias.
    """

    chunks: Chunks
    hidden: Tensor
    bias: Tensor | None


ID = "kernel.banded"
REVISION = 1


class Banded(Kernel):
    """Computes attention for every window with a finite reach, with every encoding and every feature."""

    def unsupported(self, window: Window, pos: PositionalEncoding) -> str | None:
        if window.reach is None:
            return "it needs a window with a reach, such as sliding; use kernel=auto"
        return super().unsupported(window, pos)

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        assert window.reach is not None
        chunks = Chunks.of(where.q_pos.shape[1], where.k_pos.shape[1], window.reach)
        band = chunks.rows(where)
        seen = visible(band, window.allows).unflatten(0, (-1, chunks.n))  # (B or 1, n, C, W)
        hidden = torch.zeros_like(seen, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))
        return Band(chunks, hidden, self.bias(band, chunks, pos) if pos.biased else None)

    def bias(self, band: Where, chunks: Chunks, pos: PositionalEncoding) -> Tensor:
        """Return the bias (B or 1, H, n or 1, C, W): B and n are 1 if it depends on the distance only."""
        head = torch.arange(self.n_head, device=band.q_pos.device)[:, None, None, None]  # (H, 1, 1, 1)
        if pos.relative:
            k = torch.arange(chunks.past + chunks.size, device=band.q_pos.device)
            q, k = k[chunks.past :, None], k  # (C, 1), (W,)
        else:
            q = band.q_pos.unflatten(0, (-1, 1, chunks.n))[..., None]  # (B or 1, 1, n, C, 1)
            k = band.k_pos.clamp(min=0).unflatten(0, (-1, 1, chunks.n))[..., None, :]  # (B or 1, 1, n, 1, W)
        bias = pos.bias(head, q, k).masked_fill(k > q, 0.0)
        return bias if bias.dim() == 5 else bias[None]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, Band)
        chunks, groups, length = mask.chunks, k.shape[2], q.shape[1]
        # The query heads of a group are folded into the chunk's queries: its keys and values are read once, not copied.
        q = chunks.queries(q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)).transpose(2, 3)  # (B, G, n, H/G, C, D)
        k, v = chunks.keys(k.transpose(1, 2)), chunks.keys(v.transpose(1, 2))  # (B, G, n, W, D)
        logits = capped((q.flatten(3, 4) * score.scale) @ k.mT, score.softcap)  # (B, G, n, H/G*C, W)
        logits = logits.unflatten(3, q.shape[3:5])  # (B, G, n, H/G, C, W)
        if score.decay is not None:
            logits = logits + decay_difference(score.decay, chunks, length, groups, logits.dtype)
        if mask.bias is not None:
            logits = logits + mask.bias.unflatten(1, (groups, -1)).transpose(2, 3)  # (B or 1, G, n or 1, H/G, C, W)
        logits += mask.hidden[:, None, :, None]
        sink = None if score.sink is None else score.sink.view(groups, 1, -1, 1, 1)
        weights = F.dropout(softmax(logits, sink), self.dropout).to(v.dtype)
        y = (weights.flatten(3, 4) @ v).unflatten(3, q.shape[3:5])  # (B, G, n, H/G, C, Dv)
        out: Tensor = y.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)[:, -length:]  # (B, Tq, H, Dv)
        return out


def decay_difference(decay: Tensor, chunks: Chunks, length: int, groups: int, dtype: torch.dtype) -> Tensor:
    """Decay (B, Tk, G or H) -> the query's minus the key's, (B, G, n, 1 or H/G, C, W). Both are first taken relative to
    the chunk's first query: the differences are small, so that fp32 suffices for them."""
    decay = decay.transpose(1, 2)[..., None]  # (B, G or H, Tk, 1)
    own, keys = chunks.queries(decay[:, :, -length:]), chunks.keys(decay)  # (B, G or H, n, C or W, 1)
    start, high = own[..., :1, :], torch.promote_types(dtype, torch.float32)
    difference = (own - start).to(high) - (keys - start).to(high).mT  # (B, G or H, n, C, W)
    by_group: Tensor = difference.unflatten(1, (groups, -1)).transpose(2, 3)
    return by_group
