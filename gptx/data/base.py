"""The contract of a corpus: its documents, and a hash of its content."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from gptx.data.id_array import IdArray
from gptx.data.long_text import LongText
from gptx.errors import DataError

Document = str | LongText | IdArray


class Corpus(ABC):
    """A source of text. The arguments of a constructor are the keys of its YAML file and have no defaults.

    Args:
        val_fraction: fraction of the text held out for validation, above 0 and at most 0.5.
        max_tokens: limit on the tokens of both splits together; 0: no limit.

    Attributes:
        name: a short name for messages and records.
        val_fraction, max_tokens: set by the base constructor.
    """

    name: str
    val_fraction: float
    max_tokens: int

    def __init__(self, *, val_fraction: float, max_tokens: int) -> None:
        if not 0 < val_fraction <= 0.5:
            raise DataError(f"data.val_fraction={val_fraction}: expected above 0 and at most 0.5, e.g. 0.1")
        if max_tokens < 0:
            raise DataError(f"data.max_tokens={max_tokens}: expected 0 (no limit) or a positive number")
        self.val_fraction = val_fraction
        self.max_tokens = max_tokens

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the sha256 of the text, or of the description of a download; it does not depend on paths.

        It must be fast and need no network.
        """

    @abstractmethod
    def documents(self, cache: Path) -> Iterator[Document]:
        """Yield the documents, always in the same order. ``cache`` is a folder for downloads.

        A text that may be too long for the memory is a `LongText`.
        """

    def remarks(self) -> list[str]:
        """What the user should know about the documents that were read last, such as rows that were left out; one
        line each."""
        return []
