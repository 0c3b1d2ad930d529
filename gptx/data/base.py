"""What a corpus must be able to say: its documents, and a hash of what they are."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from gptx.errors import DataError


class Corpus(ABC):
    """A source of text. The constructor's arguments are the keys of its YAML, and have no defaults.

    ``val_fraction``  share of the text held out for validation, above 0 and at most 0.5
    ``max_tokens``    cap on train + val tokens, 0 = all of the corpus
    """

    name: str

    def __init__(self, *, val_fraction: float, max_tokens: int) -> None:
        if not 0 < val_fraction <= 0.5:
            raise DataError(f"data.val_fraction={val_fraction}: expected above 0 and at most 0.5, e.g. 0.1")
        if max_tokens < 0:
            raise DataError(f"data.max_tokens={max_tokens}: expected 0 (all of the corpus) or a positive number")
        self.val_fraction = val_fraction
        self.max_tokens = max_tokens

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 of the text, or of the spec of a download; never of paths. Cheap, needs no network."""

    @abstractmethod
    def documents(self, cache: Path) -> Iterator[str]:
        """The documents, always in the same order. ``cache`` is a folder where downloads may be kept."""
