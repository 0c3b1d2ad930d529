"""What a forward sees besides its own tokens: nothing in training, the past in decoding.

The KV cache is one ring of slots a layer. It is read in the order of time, so that masks need no special case. What is
kept is the attention's business (keys and values, latents, ...): buffers are sized at the first `keep`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gptx.attention.base import Keep
from gptx.geometry.visibility import Where
from gptx.window.base import Window


class Context(Protocol):
    @property
    def length(self) -> int:
        """Tokens of the row that are not in this forward."""

    def where(self, windows: Collection[Window], tokens: Tensor, documents: Tensor | None) -> dict[Window, Where]:
        """Where the tokens (B, T) of this forward stand, and those that a layer of each window sees besides."""

    def keeper(self, layer: int, window: Window) -> Keep:
        """The `keep` of one layer for this forward."""

    def advance(self, count: int) -> None:
        """The forward of so many tokens is over."""


class NoContext:
    """Training's memory: rows are whole."""

    length = 0

    def where(self, windows: Collection[Window], tokens: Tensor, documents: Tensor | None) -> dict[Window, Where]:
        place = Where.rows(tokens.shape[1], tokens.device) if documents is None else Where.packed(documents)
        return dict.fromkeys(windows, place)

    def keeper(self, layer: int, window: Window) -> Keep:
        return keep_nothing

    def advance(self, count: int) -> None:
        pass


@dataclass
class KVCache:
    """Holds up to ``size`` tokens a layer, of one document; a layer whose window has a reach holds no more than that.

    Attributes:
        length: tokens seen so far.
    """

    size: int
    length: int = 0
    rings: dict[int, list[Tensor]] = field(default_factory=dict)

    def slots(self, window: Window) -> int:
        return self.size if window.reach is None else min(self.size, window.reach)

    def held(self, window: Window) -> int:
        """How many tokens a ring holds: the newest ones."""
        return min(self.length, self.slots(window))

    def where(self, windows: Collection[Window], tokens: Tensor, documents: Tensor | None) -> dict[Window, Where]:
        assert documents is None, "a cache holds one document"
        if not self.length:
            return NoContext().where(windows, tokens, None)
        count, device = tokens.shape[1], tokens.device
        return {window: Where.after(self.length, self.held(window), count, device) for window in windows}

    def advance(self, count: int) -> None:
        self.length += count

    def keeper(self, layer: int, window: Window) -> Keep:
        """The `keep` of one layer for this forward: returns what is held, oldest first, then what is new."""

        def keep(*present: Tensor) -> tuple[Tensor, ...]:
            slots, count = self.slots(window), present[0].shape[1]
            if slots != window.reach and self.length + count > self.size:  # a shorter ring must not go round
                raise ValueError(f"the cache holds {self.size} tokens, given {self.length + count}")
            if layer not in self.rings:
                self.rings[layer] = [t.new_empty(t.shape[0], slots, *t.shape[2:]) for t in present]
            held = self.held(window)
            oldest = self.length % slots if held == slots else 0
            both = tuple(
                torch.cat((ring[:, oldest:held], ring[:, :oldest], new), 1)
                for ring, new in zip(self.rings[layer], present, strict=True)
            )
            fresh = min(count, slots)
            at = torch.arange(self.length + count - fresh, self.length + count, device=present[0].device) % slots
            for ring, new in zip(self.rings[layer], present, strict=True):
                ring[:, at] = new[:, -fresh:]
            return both

        return keep

    def nbytes(self) -> int:
        """Bytes really held, all layers."""
        return sum(ring.nbytes for rings in self.rings.values() for ring in rings)


def keep_nothing(*present: Tensor) -> tuple[Tensor, ...]:
    """Training's `keep`: there is no past."""
    return present
