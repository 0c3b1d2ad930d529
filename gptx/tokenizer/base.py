"""The contract of a tokenizer, and how a saved one is loaded."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from gptx.config.class_ids import current_target
from gptx.errors import DataError, GptxError
from gptx.regular_files import read_text
from gptx.runs.atomic_files import JsonObject

LARGEST = 2**28  # bytes of a tokenizer.json; that of gpt2 has half a million
SEPARATOR = "\n\n"  # the text between two documents
EOT_TEXT = "<|endoftext|>"  # the end-of-text token, decoded; the same characters in a text are encoded as characters


class Tokenizer(ABC):
    """Converts text to token ids and back.

    Attributes:
        name: a short name for messages and records.
        needs_fit: whether the vocabulary is learned from the corpus.
        fits_val: whether it is learned from the validation text too, which is correct only for an alphabet.
        n_vocab: number of ids; with ``needs_fit``, any number before `fit`.
        eot: the id that separates documents; None: documents are separated by a blank line.
    """

    NEEDED_WITH: ClassVar[dict[str, str]] = {"needs_fit": "fit"}

    name: ClassVar[str]
    needs_fit: ClassVar[bool] = False
    fits_val: ClassVar[bool] = False
    n_vocab: int
    eot: int | None

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the configuration, not of what the tokenizer learns from a corpus."""

    def fit(self, documents: Iterable[str]) -> None:
        """Learn the vocabulary. If ``needs_fit``, this must be called before all other methods except `cut`.

        Args:
            documents: each may come in several parts, cut where `cut` allows it.
        """
        raise TypeError(f"tokenizer {self.name} has nothing to learn")

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """(n,) ids. The integer type may be small and the array read-only: cast it before giving it to torch."""

    def cut(self, text: str) -> int:
        """A position where any text that contains this one may be cut, so that both parts are encoded separately to
        the same ids: more than 0 and at most ``len(text)``, the largest that is known. 0: none is known, so that a
        document is encoded as a whole."""
        return 0

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """The utf-8 text of some ids (n,)."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Bytes that are not utf-8, which a model can generate, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    @abstractmethod
    def token_bytes(self) -> np.ndarray:
        """(n_vocab,) int64: bytes of utf-8 text of each id, 0 for ``eot``."""

    def target_bytes(self) -> np.ndarray:
        """(n_vocab,) int64: the bytes that each id counts for in bits per byte. These are bits per byte of the
        documents joined by blank lines, for all tokenizers: ``eot`` counts for the blank line that it stands for."""
        found = self.token_bytes().copy()
        if self.eot is not None:
            found[self.eot] = len(SEPARATOR)
        return found

    def separator(self) -> np.ndarray:
        """The ids (n,) that separate two documents."""
        return self.encode(SEPARATOR) if self.eot is None else np.array([self.eot])

    @abstractmethod
    def state(self) -> JsonObject:
        """The arguments of `restore`, as JSON."""

    @classmethod
    @abstractmethod
    def restore(cls, state: JsonObject) -> Self:
        """The tokenizer that `state` describes. ``state`` comes from a file: an error of any class reports that it is
        damaged."""

    def to_json(self) -> JsonObject:
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **self.state()}


def load(path: Path, expected: type[Tokenizer]) -> Tokenizer:
    """Load a tokenizer of a known class from a tokenizer.json.

    The file contains the name of its class, which is compared and not imported: the file may come from somebody else.

    Raises:
        DataError: the file is damaged, or of another class.
    """
    name = f"{expected.__module__}.{expected.__qualname__}"
    try:
        state = json.loads(read_text(path, LARGEST))
        if not isinstance(state, dict) or not isinstance(state.get("class"), str):
            raise ValueError("expected an object with the name of a class")
        if current_target(state["class"]) != name:
            raise ValueError(f"it is of the class {state['class']}, and the config names {name}")
        tokenizer = expected.restore(state)
        if int(tokenizer.n_vocab) < 1:
            raise ValueError("its vocabulary is empty")
    except GptxError:
        raise
    except Exception as error:  # a class of the user may raise anything
        text = f"it has no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} is not a tokenizer of gptx: {' '.join(text.split())[:200]}") from None
    return tokenizer
