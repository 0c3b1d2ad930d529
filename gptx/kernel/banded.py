"""Attention over a band: time and memory linear in the context, for windows that have a reach (Longformer, Beltagy et
al. 2020, section 3.1, computes sliding windows in such chunks).

The queries are cut into chunks; each chunk meets its own keys and those of the chunks before it that it can reach.
Queries are the newest tokens of the keys, so one formula serves whole rows, chunks of a prompt, and single tokens.

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim, n chunks, C queries in a chunk,
P earlier keys that a chunk sees, W = P + C.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptx.errors import option
from gptx.kernel.base import Kernel, Score
from gptx.kernel.reference import capped, softmax
from gptx.pos.base import PositionalEncoding
from gptx.where import Where, visible
from gptx.window.base import Window

SMALLEST, LARGEST = 32, 128  # queries in a chunk: between them matrix products are efficient, and few keys are in vain


@dataclass(frozen=True)
class Chunks:
    """How the tokens are cut: n chunks of C queries, which see P keys before their own."""

    n: int
    size: int
    past: int

    @staticmethod
    def of(queries: int, keys: int, reach: int) -> "Chunks":
        size = SMALLEST
        while size < LARGEST and 4 * size <= reach:
            size *= 2
        if queries <= size or reach >= keys:  # one chunk, of all: plain attention, and single tokens
            return Chunks(1, queries, min(reach - 1, keys - queries))
        return Chunks(-(-queries // size), size, -(-(reach - 1) // size) * size)

    def queries(self, x: Tensor) -> Tensor:
        """(..., Tq, E) -> (..., n, C, E); the first query is repeated in front, so that chunks are full."""
        pad = self.n * self.size - x.shape[-2]
        x = torch.cat((x[..., :1, :].expand(*x.shape[:-2], pad, -1), x), -2) if pad else x
        chunks: Tensor = x.unflatten(-2, (self.n, self.size))
        return chunks

    def keys(self, x: Tensor, empty: int = 0) -> Tensor:
        """(..., Tk, E) -> (..., n, W, E); in front come ``empty`` ones, or those that nobody reaches go.

        A concatenation of views, because its backward is many times as fast as that of `unfold` or an index.
        """
        missing = self.n * self.size + self.past - x.shape[-2]
        x = F.pad(x, (0, 0, missing, 0), value=empty) if missing > 0 else x[..., -missing:, :]
        if self.n == 1:
            return x.unsqueeze(-3)
        x = x.unflatten(-2, (-1, self.size))
        return torch.cat([x[..., i : i + self.n, :, :] for i in range(self.past // self.size + 1)], -2)


@dataclass(frozen=True, eq=False)
class Band:
    """Attributes:
    hidden: (B or 1, n, C, W) what is added: 0 where visible, -inf elsewhere; bf16, where both are exact.
    bias: (B or 1, H, n or 1, C, W), finite; None: none.
    """

    chunks: Chunks
    hidden: Tensor
    bias: Tensor | None


class Banded(Kernel):
    def lacks(self, window: Window, pos: PositionalEncoding) -> str | None:
        if window.reach is None:
            name = option(window)
            return (
                f"kernel=banded needs a window with a reach, window={name} has none: use window=sliding or kernel=auto"
            )
        return super().lacks(window, pos)

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        assert window.reach is not None
        chunks = Chunks.of(where.q_pos.shape[1], where.k_pos.shape[1], window.reach)
        band = banded(where, chunks)
        seen = visible(band, window.allows).unflatten(0, (-1, chunks.n))
        hidden = torch.zeros_like(seen, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))
        return Band(chunks, hidden, self.bias(band, chunks, pos) if pos.biased else None)

    def bias(self, band: Where, chunks: Chunks, pos: PositionalEncoding) -> Tensor:
        """(B or 1, H, n or 1, C, W): one for all chunks and rows where the distance alone decides."""
        head = torch.arange(self.n_head, device=band.q_pos.device)[:, None, None, None]
        if pos.relative:
            k = torch.arange(chunks.past + chunks.size, device=band.q_pos.device)
            q, k = k[chunks.past :, None], k
        else:
            q = band.q_pos.unflatten(0, (-1, 1, chunks.n))[..., None]  # (B or 1, 1, n, C, 1)
            k = band.k_pos.clamp(min=0).unflatten(0, (-1, 1, chunks.n))[..., None, :]
        bias = pos.bias(head, q, k).masked_fill(k > q, 0.0)
        return bias if bias.dim() == 5 else bias[None]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, Band)
        chunks, groups, length = mask.chunks, k.shape[2], q.shape[1]
        # The heads of a group fold into the chunk's queries, so that its keys and values are read once, never copied.
        q = chunks.queries(q.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)).transpose(2, 3)  # (B, G, n, H/G, C, D)
        k, v = chunks.keys(k.transpose(1, 2)), chunks.keys(v.transpose(1, 2))  # (B, G, n, W, D)
        logits = capped((q.flatten(3, 4) * score.scale) @ k.mT, score.softcap)  # (B, G, n, H/G*C, W)
        logits = logits.unflatten(3, q.shape[3:5])  # (B, G, n, H/G, C, W)
        if score.decay is not None:
            decay = score.decay.transpose(1, 2)[..., None]  # (B, G, Tk, 1)
            own = chunks.queries(decay[:, :, -length:])  # (B, G, n, C, 1)
            logits = logits + (own - chunks.keys(decay).mT)[:, :, :, None]
        if mask.bias is not None:
            logits = logits + mask.bias.unflatten(1, (groups, -1)).transpose(2, 3)
        logits += mask.hidden[:, None, :, None]
        sink = None if score.sink is None else score.sink.view(groups, 1, -1, 1, 1)
        weights = F.dropout(softmax(logits, sink), self.dropout).to(v.dtype)
        y = (weights.flatten(3, 4) @ v).unflatten(3, q.shape[3:5])  # (B, G, n, H/G, C, Dv)
        out: Tensor = y.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)[:, -length:]  # (B, Tq, H, Dv)
        return out


def banded(where: Where, chunks: Chunks) -> Where:
    """Where the queries (B or 1 * n, C) and the keys (B or 1 * n, W) of each chunk stand: a chunk is a row."""
    batch = 1 if where.q_doc is None else where.q_doc.shape[0]

    def q(x: Tensor) -> Tensor:
        return chunks.queries(x.expand(max(batch, x.shape[0]), -1)[..., None]).squeeze(-1).flatten(0, 1)

    def k(x: Tensor) -> Tensor:
        return chunks.keys(x.expand(max(batch, x.shape[0]), -1)[..., None], empty=-1).squeeze(-1).flatten(0, 1)

    if where.q_doc is None or where.k_doc is None:
        return Where(q(where.q_pos), k(where.k_pos))
    return Where(q(where.q_pos), k(where.k_pos), q(where.q_doc), k(where.k_doc))
