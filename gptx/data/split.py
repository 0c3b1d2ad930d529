"""Split the text of a corpus into training and validation, and limit both by max_tokens."""

import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from gptx.data.base import Corpus, Document
from gptx.errors import DataError

SPLITS = ("train", "val")


def split_documents(documents: Iterator[Document], val_fraction: float) -> Iterator[tuple[str, Document]]:
    """Yield (split, document): every round(1 / val_fraction)-th document is for validation, so both span the corpus.

    A corpus with fewer documents is cut inside each document instead: the last ``val_fraction`` of its characters is
    for validation, as in nanoGPT.
    """
    every = round(1 / val_fraction)
    documents = (text for text in documents if text)
    head = list(islice(documents, every))
    if len(head) == every:
        for i, text in enumerate(chain(head, documents), start=1):
            yield "val" if i % every == 0 else "train", text
        return
    for text in head:
        cut = int(len(text) * (1 - val_fraction))
        yield from ((split, part) for split, part in zip(SPLITS, (text[:cut], text[cut:]), strict=True) if part)


class LimitedCorpus:
    """The (split, document) pairs of a corpus until ``max_tokens`` tokens of it are used, which `take` adds up.

    Each split has its own part of max_tokens, and the iteration ends when both are used up: a small limit leaves some
    validation text, however late its first document comes.

    Attributes:
        remaining, used: tokens, by split.
    """

    def __init__(self, corpus: Corpus, cache: Path) -> None:
        limit = corpus.max_tokens or sys.maxsize
        val = int(limit * corpus.val_fraction)
        self.remaining = {"train": limit - val, "val": val}
        self.used = dict.fromkeys(SPLITS, 0)
        self._corpus, self._cache = corpus, cache

    def __iter__(self) -> Iterator[tuple[str, Document]]:
        for split, text in split_documents(self._corpus.documents(self._cache), self._corpus.val_fraction):
            if self.remaining[split]:
                yield split, text
            elif not any(self.remaining.values()):
                return

    def take(self, split: str, wanted: int) -> int:
        """Return how many of ``wanted`` tokens are within the limit, and count them as used."""
        taken = min(wanted, self.remaining[split])
        self.remaining[split] -= taken
        self.used[split] += taken
        return taken

    def check_not_empty(self) -> None:
        """Check that both splits have tokens.

        Raises:
            DataError: one of them has none.
        """
        if all(self.used.values()):
            return
        advice = "use more text"
        if not any(self.used.values()):
            advice = "its text is empty"
        elif self.used["train"] and self._corpus.max_tokens:
            advice = "use more text, or raise data.max_tokens or data.val_fraction"
        raise DataError(
            f"corpus {self._corpus.name} gives {self.used['train']} train and {self.used['val']} val tokens, expected "
            f"some of both: {advice}"
        )
