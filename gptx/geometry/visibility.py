"""Visibility: which key a query may see. Written once, here; every mask of every kernel is built from it.

Letters: B batch, Tq queries, Tk keys.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Predicate = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Where:
    """Where queries and keys stand: all that masks and biases may read.

    Attributes:
        q_pos: (B or 1, Tq) position of each query inside its own document.
        k_pos: (B or 1, Tk) likewise for keys, which are consecutive tokens that end with the queries; -1 marks
            padding.
        q_doc, k_doc: (B, Tq), (B, Tk) document ids when rows are packed, else None.
        aligned: queries and keys are the same tokens 0..T-1 of one document: a kernel may use its causal fast path.
    """

    q_pos: Tensor
    k_pos: Tensor
    q_doc: Tensor | None = None
    k_doc: Tensor | None = None
    aligned: bool = False

    @staticmethod
    def rows(length: int, device: torch.device | str = "cpu") -> "Where":
        """Whole rows of one document each, without a cache: what training sees."""
        pos = torch.arange(length, device=device)[None]
        return Where(pos, pos, aligned=True)

    @staticmethod
    def packed(documents: Tensor) -> "Where":
        """Rows of several documents each: (B, T) ids, equal within a document and another in the next one."""
        at = torch.arange(documents.shape[1], device=documents.device)[None]
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        pos = at - torch.where(begins, at, 0).cummax(dim=1).values
        count = begins.cumsum(dim=1)  # an id that comes back later is another document
        return Where(pos, pos, count, count)

    @staticmethod
    def after(past: int, held: int, count: int, device: torch.device | str) -> "Where":
        """``count`` new tokens of one document after ``past`` others, of which the last ``held`` are in the cache."""
        pos = torch.arange(past - held, past + count, device=device)[None]
        return Where(pos[:, held:], pos)


def documents(tokens: Tensor, separator: int | None) -> Tensor | None:
    """(B, T) ids of the documents in rows of tokens; None where nothing separates them.

    A separator is the first token of what it begins: so each text is predicted from it alone, in training as in
    generation.
    """
    return None if separator is None else (tokens == separator).cumsum(dim=1)


def visible(where: Where, allows: Predicate) -> Tensor:
    """(B or 1, Tq, Tk) bool: the key is there, not in the future, of the same document, and inside the window."""
    docs = None
    if where.q_doc is not None and where.k_doc is not None:
        docs = where.q_doc[:, :, None], where.k_doc[:, None, :]
    return pair_visible(where.q_pos[:, :, None], where.k_pos[:, None, :], docs, allows)


def pair_visible(q: Tensor, k: Tensor, docs: tuple[Tensor, Tensor] | None, allows: Predicate) -> Tensor:
    """The same of broadcastable positions of queries and keys, and of their documents."""
    seen = (k >= 0) & (k <= q) & allows(q, k)
    return seen if docs is None else seen & (docs[0] == docs[1])
