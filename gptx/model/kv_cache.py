"""The other tokens that a forward pass sees. Empty in training, a KV cache in generation.

The KV cache has one ring buffer per layer and tensor. It is read in the order of time, so masks need no special case.
The attention decides what is cached (keys and values, latents, ...); buffers are allocated by the first `keep`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gptx.geometry.attention_view import Keep
from gptx.geometry.visibility import Where
from gptx.window.base import Window


class Context(Protocol):
    """The tokens that a forward pass sees besides its own."""

    @property
    def length(self) -> int:
        """Number of tokens of the row that are not part of this forward."""

    def where(self, windows: Collection[Window], tokens: Tensor, documents: Tensor | None) -> dict[Window, Where]:
        """Positions of this forward's tokens (B, T) and of the keys that a layer of each window reads.

        Args:
            documents: (B, T) ids of packed documents; None: one document per row.
        """

    def keeper(self, layer: int, window: Window) -> Keep:
        """Return the `keep` function of one layer for this forward."""

    def advance(self, count: int) -> None:
        """End a forward of ``count`` tokens."""


class NoContext:
    """The context of training: rows are complete."""

    length = 0

    def where(self, windows: Collection[Window], tokens: Tensor, documents: Tensor | None) -> dict[Window, Where]:
        where = Where.rows(tokens.shape[1], tokens.device) if documents is None else Where.packed(documents)
        return dict.fromkeys(windows, where)

    def keeper(self, layer: int, window: Window) -> Keep:
        return keep_nothing

    def advance(self, count: int) -> None:
        pass


@dataclass
class KVCache:
    """Cache of up to ``size`` tokens of one document. A layer whose window has a reach caches no more than its reach.

    Attributes:
        length: number of tokens processed so far.
        rings: the ring buffers of each layer (B, slots, ...).
    """

    size: int
    length: int = 0
    rings: dict[int, list[Tensor]] = field(default_factory=dict)

    def slots(self, window: Window) -> int:
        """Capacity of a layer's ring buffer in tokens."""
        return self.size if window.reach is None else min(self.size, window.reach)

    def cached(self, window: Window) -> int:
        """Number of tokens in a layer's ring buffer: the newest ones."""
        return min(self.length, self.slots(window))

    def where(self, windows: Collection[Window], tokens: Tensor, documents: Tensor | None) -> dict[Window, Where]:
        assert documents is None, "a cache holds one document"
        if not self.length:
            return NoContext().where(windows, tokens, None)
        count, device = tokens.shape[1], tokens.device
        return {window: Where.after(self.length, self.cached(window), count, device) for window in windows}

    def advance(self, count: int) -> None:
        self.length += count

    def keeper(self, layer: int, window: Window) -> Keep:
        """Return the `keep` function of one layer: it returns the cached tokens, oldest first, then the new ones.

        Raises:
            ValueError: (by `keep`) the tokens exceed the cache, and the window still sees the oldest of them.
        """

        def keep(*present: Tensor) -> tuple[Tensor, ...]:
            slots, count = self.slots(window), present[0].shape[1]
            if slots != window.reach and self.length + count > self.size:  # overwriting would lose visible tokens
                raise ValueError(f"the cache holds {self.size} tokens, given {self.length + count}")
            if layer not in self.rings:
                self.rings[layer] = [t.new_empty(t.shape[0], slots, *t.shape[2:]) for t in present]  # (B, slots, ...)
            cached = self.cached(window)
            oldest = self.length % slots if cached == slots else 0
            both = tuple(
                torch.cat((ring[:, oldest:cached], ring[:, :oldest], new), 1)
                for ring, new in zip(self.rings[layer], present, strict=True)
            )
            fresh = min(count, slots)
            at = torch.arange(self.length + count - fresh, self.length + count, device=present[0].device) % slots
            for ring, new in zip(self.rings[layer], present, strict=True):
                ring[:, at] = new[:, -fresh:]
            return both

        return keep

    def nbytes(self) -> int:
        """Bytes of all allocated ring buffers."""
        return sum(ring.nbytes for rings in self.rings.values() for ring in rings)


def keep_nothing(*present: Tensor) -> tuple[Tensor, ...]:
    """The `keep` function of training: there are no earlier tokens."""
    return present
