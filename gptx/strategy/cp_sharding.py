"""Split rows for context parallelism, and compute one rank's part of a row with any kernel.

A row is split into 2n chunks for n ranks; rank r computes chunks r and 2n-1-r. Late queries see more keys than early
ones, so this zig-zag order gives every rank the same amount of work (Llama 3, Grattafiori et al. 2024, section 3.3.2).

Letters: B batch, T time, n ranks that share a row, S = T/2n tokens in a chunk, H query heads, G key/value heads.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


@dataclass(frozen=True)
class RowShard:
    """The two chunks of a row that rank ``index`` of ``count`` computes."""

    index: int
    count: int

    def starts(self, length: int) -> tuple[int, int]:
        """Return the first positions of the two chunks in a row of ``length`` tokens."""
        size = length // (2 * self.count)
        return self.index * size, (2 * self.count - 1 - self.index) * size

    def take(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (B, 2S, ...): both chunks."""
        size = x.shape[1] // (2 * self.count)
        return torch.cat([x[:, start : start + size] for start in self.starts(x.shape[1])], 1)


def merge_shards(shards: Tensor) -> Tensor:
    """(n, B, 2S, ...), what `RowShard.take` returns on each rank -> (B, T, ...), in the order of time."""
    early, late = shards.unflatten(2, (2, -1)).unbind(2)  # (n, B, S, ...) each
    return torch.cat((early, late.flip(0))).transpose(0, 1).flatten(1, 2)


def split_rows(rows: Tensor, count: int) -> Tensor:
    """(B, T, ...) -> (n, B, 2S, ...): what `RowShard.take` returns on each rank."""
    early, late = rows.unflatten(1, (2 * count, -1)).transpose(0, 1).chunk(2)  # (n, B, S, ...) each
    return torch.cat((early, late.flip(0)), 2)


class RowShardKernel(Kernel):
    """Calls another kernel once for each chunk of queries. As every kernel expects, the keys that it passes end with
    the chunk. They start where the reach of the window starts: earlier keys are skipped."""

    def __init__(self, shape: ModelShape, inner: Kernel, shard: RowShard) -> None:
        super().__init__(shape, inner.demands)
        self.inner, self.shard = inner, shard

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        """Return, for each chunk, the slice of the row's keys and the inner kernel's mask."""
        length, size = where.k_pos.shape[1], where.q_pos.shape[1] // 2
        masks = []
        for i, start in enumerate(self.shard.starts(length)):
            past = start if window.reach is None else min(start, window.reach - 1)
            keys = slice(start - past, start + size)
            chunk = _select(where, slice(i * size, (i + 1) * size), keys, aligned=start == 0)
            masks.append((keys, self.inner.mask(chunk, window, pos)))
        return masks

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, list)
        outputs = []
        for queries, (keys, inner_mask) in zip(q.chunk(2, 1), mask, strict=True):
            decay = None if score.decay is None else score.decay[:, keys]
            outputs.append(self.inner(queries, k[:, keys], v[:, keys], inner_mask, replace(score, decay=decay)))
        return torch.cat(outputs, 1)


def _select(where: Where, queries: slice, keys: slice, aligned: bool) -> Where:
    """Select some queries and keys; ``aligned``: both are the first tokens of the row."""
    q_pos, k_pos = where.q_pos[:, queries], where.k_pos[:, keys]
    if where.q_doc is None or where.k_doc is None:
        return Where(q_pos, k_pos, aligned=aligned)
    return Where(q_pos, k_pos, where.q_doc[:, queries], where.k_doc[:, keys])
