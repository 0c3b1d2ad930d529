"""Which text is trained on and which is held out, and where max_tokens ends both."""

import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from gptx.data.base import Corpus
from gptx.errors import DataError

SIDES = ("train", "val")


def split(documents: Iterator[str], val_fraction: float) -> Iterator[tuple[str, str]]:
    """(side, text): every round(1 / val_fraction)-th document is for validation, so both span the corpus.

    Fewer documents than that: the last ``val_fraction`` of each one's characters, as nanoGPT cuts its text.
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
        yield from ((side, part) for side, part in zip(SIDES, (text[:cut], text[cut:]), strict=True) if part)


class Room:
    """The (side, text) of a corpus while ``max_tokens`` has room for it; ``take`` uses it up.

    Each side has its share of max_tokens and the corpus ends when both are used up: a small cap leaves some
    validation text, however late the first document of it comes.
    """

    def __init__(self, corpus: Corpus, cache: Path) -> None:
        cap = corpus.max_tokens or sys.maxsize
        val = int(cap * corpus.val_fraction)
        self.left = {"train": cap - val, "val": val}
        self.used = dict.fromkeys(SIDES, 0)
        self._corpus, self._cache = corpus, cache

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for side, text in split(self._corpus.documents(self._cache), self._corpus.val_fraction):
            if self.left[side]:
                yield side, text
            elif not any(self.left.values()):
                return

    def take(self, side: str, wanted: int) -> int:
        """How many of ``wanted`` tokens there is room for; they count as used."""
        taken = min(wanted, self.left[side])
        self.left[side] -= taken
        self.used[side] += taken
        return taken

    def check(self) -> None:
        """Refuse what left a side empty."""
        if not all(self.used.values()):
            raise DataError(
                f"corpus {self._corpus.name} gives {self.used['train']} train and {self.used['val']} val "
                "tokens, expected some of both: take more text, or raise data.val_fraction or data.max_tokens"
            )
