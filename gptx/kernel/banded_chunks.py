"""How `banded` splits the tokens into chunks of queries, each with the keys that it can reach.

Letters: B batch, Tq queries, Tk keys, n chunks, C queries per chunk, P earlier keys of a chunk, W = P + C, E any.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptx.geometry.visibility import Where

# Queries per chunk: fewer make small matrix products slow, more compute many hidden pairs.
SMALLEST, LARGEST = 32, 128


@dataclass(frozen=True)
class Chunks:
    """A split into ``n`` chunks of ``size`` (C) queries, each of which sees ``past`` (P) keys before its own."""

    n: int
    size: int
    past: int

    @staticmethod
    def of(queries: int, keys: int, reach: int) -> "Chunks":
        """Choose the split for Tq queries, Tk keys and a window's reach."""
        size = SMALLEST
        while size < LARGEST and 4 * size <= reach:
            size *= 2
        if queries <= size or reach >= keys:  # one chunk with all queries: plain attention, and single tokens
            return Chunks(1, queries, min(reach - 1, keys - queries))
        return Chunks(-(-queries // size), size, -(-(reach - 1) // size) * size)

    def queries(self, x: Tensor) -> Tensor:
        """(..., Tq, E) -> (..., n, C, E); the first query is repeated in front to fill the first chunk."""
        pad = self.n * self.size - x.shape[-2]
        x = torch.cat((x[..., :1, :].expand(*x.shape[:-2], pad, -1), x), -2) if pad else x
        chunks: Tensor = x.unflatten(-2, (self.n, self.size))
        return chunks

    def keys(self, x: Tensor, empty: int = 0) -> Tensor:
        """(..., Tk, E) -> (..., n, W, E); padded in front with ``empty``, or without the first keys that no query sees.

        A concatenation of views, because its backward is many times as fast as that of `unfold` or of an index.
        """
        missing = self.n * self.size + self.past - x.shape[-2]
        x = F.pad(x, (0, 0, missing, 0), value=empty) if missing > 0 else x[..., -missing:, :]
        if self.n == 1:
            return x.unsqueeze(-3)
        x = x.unflatten(-2, (-1, self.size))  # (..., n + P/C, C, E)
        return torch.cat([x[..., i : i + self.n, :, :] for i in range(self.past // self.size + 1)], -2)

    def rows(self, where: Where) -> Where:
        """Return positions and documents with one row per chunk: queries ((B or 1) * n, C), keys ((B or 1) * n, W)."""
        batch = len(where.q_pos if where.q_doc is None else where.q_doc)

        def q(x: Tensor) -> Tensor:
            return self.queries(x.expand(batch, -1)[..., None]).squeeze(-1).flatten(0, 1)

        def k(x: Tensor) -> Tensor:
            return self.keys(x.expand(batch, -1)[..., None], empty=-1).squeeze(-1).flatten(0, 1)

        if where.q_doc is None or where.k_doc is None:
            return Where(q(where.q_pos), k(where.k_pos))
        return Where(q(where.q_pos), k(where.k_pos), q(where.q_doc), k(where.k_doc))
