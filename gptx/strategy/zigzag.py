"""How a row is cut for context parallelism, and how a kernel computes what is cut out of it.

A row is cut in 2n pieces for n processes; process r computes pieces r and 2n-1-r. Late queries see more keys than early
ones, and so every process has as much to do (zig-zag, as in ring-flash-attention and Llama 3, section 3.3.2).

Letters: B batch, T time, n processes that share a row, S = T/2n tokens in a piece, H query heads, G key/value heads.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gptx.geometry.model_shape import ModelShape
from gptx.geometry.view import Score
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


@dataclass(frozen=True)
class Cut:
    """The part of a row that process ``index`` of ``count`` computes."""

    index: int
    count: int

    def begins(self, length: int) -> tuple[int, int]:
        """Where in a row of ``length`` tokens the two pieces begin."""
        size = length // (2 * self.count)
        return self.index * size, (2 * self.count - 1 - self.index) * size

    def take(self, x: Tensor) -> Tensor:
        """(B, T, ...) -> (B, 2S, ...): both pieces."""
        size = x.shape[1] // (2 * self.count)
        return torch.cat([x[:, begin : begin + size] for begin in self.begins(x.shape[1])], 1)


def join(parts: Tensor) -> Tensor:
    """(n, B, 2S, ...), what the processes have taken -> (B, T, ...), in the order of time."""
    early, late = parts.unflatten(2, (2, -1)).unbind(2)  # (n, B, S, ...) each
    return torch.cat((early, late.flip(0))).transpose(0, 1).flatten(1, 2)


def deal(rows: Tensor, count: int) -> Tensor:
    """(B, T, ...) -> (n, B, 2S, ...): what each process would take."""
    early, late = rows.unflatten(1, (2 * count, -1)).transpose(0, 1).chunk(2)  # (n, B, S, ...) each
    return torch.cat((early, late.flip(0)), 2)


class Pieces(Kernel):
    """Another kernel, asked once for each piece. It is given the keys that end with the piece, as kernels demand, and
    begin where the window's reach allows: what lies beyond is not computed."""

    def __init__(self, shape: ModelShape, inner: Kernel, cut: Cut) -> None:
        super().__init__(shape, inner.demands)
        self.inner, self.cut = inner, cut

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        """For each piece its keys, a slice of the row's, and the inner kernel's mask."""
        length, size = where.k_pos.shape[1], where.q_pos.shape[1] // 2
        masks = []
        for i, begin in enumerate(self.cut.begins(length)):
            past = begin if window.reach is None else min(begin, window.reach - 1)
            keys = slice(begin - past, begin + size)
            piece = part(where, slice(i * size, (i + 1) * size), keys, aligned=begin == 0)
            masks.append((keys, self.inner.mask(piece, window, pos)))
        return masks

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, list)
        pieces = []
        for own, (keys, inner) in zip(q.chunk(2, 1), mask, strict=True):
            decay = None if score.decay is None else score.decay[:, keys]
            pieces.append(self.inner(own, k[:, keys], v[:, keys], inner, replace(score, decay=decay)))
        return torch.cat(pieces, 1)


def part(where: Where, queries: slice, keys: slice, aligned: bool) -> Where:
    """Some queries and keys; ``aligned``: they are the same tokens, and begin the row."""
    q_pos, k_pos = where.q_pos[:, queries], where.k_pos[:, keys]
    if where.q_doc is None or where.k_doc is None:
        return Where(q_pos, k_pos, aligned=aligned)
    return Where(q_pos, k_pos, where.q_doc[:, queries], where.k_doc[:, keys])
