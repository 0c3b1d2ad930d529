"""A corpus of your own.

What the base class requires, and what it offers: docs/contracts.md#data of gptx.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random

from gptx.data.base import Corpus
from gptx.runs.hashing import digest


class DataTemplate(Corpus):
    """Lists of sums such as ``12 + 7 = 19``, one document for each list.

    Args:
        count: number of documents.
        val_fraction, max_tokens: see `Corpus`.
    """

    name = "mine"

    def __init__(self, *, count: int, val_fraction: float, max_tokens: int) -> None:
        super().__init__(val_fraction=val_fraction, max_tokens=max_tokens)
        self.count = count

    def fingerprint(self) -> str:
        return digest(self.documents(Path()))  # of files, a hash of their content

    def documents(self, cache: Path) -> Iterator[str]:
        for number in range(self.count):
            numbers = Random(number)  # the same documents each time
            pairs = [(numbers.randrange(100), numbers.randrange(100)) for _ in range(50)]
            yield "\n".join(f"{a} + {b} = {a + b}" for a, b in pairs)
