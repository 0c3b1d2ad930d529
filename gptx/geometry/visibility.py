"""Visibility: which key a query may see. Defined once, here; the masks of all kernels are built from it.

Letters: B batch, Tq queries, Tk keys.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Predicate = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Where:
    """Positions and documents of queries and keys. Masks and biases may depend on these and on nothing else.

    Attributes:
        q_pos: (B or 1, Tq) position of each query in its own document, counted from 0.
        k_pos: (B or 1, Tk) position of each key; -1 marks padding. Keys are consecutive tokens, and the queries are
            the last of them.
        q_doc, k_doc: (B, Tq), (B, Tk) document ids if rows are packed, else None.
        aligned: True if queries and keys are the same tokens 0..T-1 of one document, so that a kernel may use its
            causal fast path.
    """

    q_pos: Tensor
    k_pos: Tensor
    q_doc: Tensor | None = None
    k_doc: Tensor | None = None
    aligned: bool = False

    @staticmethod
    def rows(length: int, device: torch.device | str = "cpu") -> "Where":
        """Full rows of one document each, without a cache: the usual case in training."""
        pos = torch.arange(length, device=device)[None]  # (1, T)
        return Where(pos, pos, aligned=True)

    @staticmethod
    def packed(documents: Tensor) -> "Where":
        """Rows of several documents. ``documents`` (B, T) are ids; adjacent documents have different ids."""
        index = torch.arange(documents.shape[1], device=documents.device)[None]  # (1, T)
        starts = torch.ones_like(documents, dtype=torch.bool)
        starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
        pos = index - torch.where(starts, index, 0).cummax(dim=1).values
        count = starts.cumsum(dim=1)  # unique ids: an id that is used again later is another document
        return Where(pos, pos, count, count)

    @staticmethod
    def after(past: int, cached: int, count: int, device: torch.device | str) -> "Where":
        """``count`` new tokens of one document after ``past`` earlier ones, of which the last ``cached`` are cached."""
        pos = torch.arange(past - cached, past + count, device=device)[None]  # (1, Tk)
        return Where(pos[:, cached:], pos)


def documents(tokens: Tensor, separator: int | None) -> Tensor | None:
    """Return document ids (B, T) for rows of tokens, or None without a separator.

    The separator is the first token of the document that it starts. The first token of a text is therefore
    predicted from the separator alone, in training as in generation.
    """
    return None if separator is None else (tokens == separator).cumsum(dim=1)


def visible(where: Where, allows: Predicate) -> Tensor:
    """Return a bool mask (B or 1, Tq, Tk): the key exists, is not in the future, belongs to the same document and lies
    inside the window.

    Args:
        allows: the window's predicate on positions, `gptx.window.base.Window.allows`.
    """
    docs = None
    if where.q_doc is not None and where.k_doc is not None:
        docs = where.q_doc[:, :, None], where.k_doc[:, None, :]
    return pair_visible(where.q_pos[:, :, None], where.k_pos[:, None, :], docs, allows)


def pair_visible(q: Tensor, k: Tensor, docs: tuple[Tensor, Tensor] | None, allows: Predicate) -> Tensor:
    """Like `visible`, elementwise for broadcastable positions of queries and keys and their document ids."""
    seen = (k >= 0) & (k <= q) & allows(q, k)
    return seen if docs is None else seen & (docs[0] == docs[1])
