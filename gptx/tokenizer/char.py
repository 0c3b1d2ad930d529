"""One id for each character of the corpus, as nanoGPT's shakespeare_char does."""

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from gptx.errors import DataError
from gptx.runs.atomic_files import JsonObject
from gptx.tokenizer.base import Tokenizer

SEPARATOR = "\n"  # a blank line joins documents, so this is always in the vocabulary


ID = "tokenizer.char"
REVISION = 1


class Char(Tokenizer):
    """The id of a character is its rank among the characters of the corpus, in the order of Unicode."""

    name = "char"
    needs_fit = True
    fits_val = True
    eot = None

    def __init__(self) -> None:
        self._set("")

    def _set(self, characters: str) -> None:
        self.characters = characters
        self.n_vocab = len(characters)
        self._codes = _codes(characters)
        self._ids = np.full(int(self._codes.max(initial=0)) + 1, -1, dtype=np.int32)
        self._ids[self._codes] = np.arange(self.n_vocab)

    def fingerprint(self) -> str:
        return "char"

    def fit(self, documents: Iterable[str]) -> None:
        found = set(SEPARATOR)
        for text in documents:
            found.update(text)
        self._set("".join(sorted(found)))

    def encode(self, text: str) -> np.ndarray:
        codes = _codes(text)
        known = codes < len(self._ids)
        ids = np.where(known, self._ids[np.where(known, codes, 0)], -1)
        if (ids < 0).any():
            at = int(np.argmax(ids < 0))
            raise DataError(
                f"character {text[at]!r} (U+{ord(text[at]):04X}) at position {at}, "
                f"in {text[max(0, at - 20) : at + 20]!r}, is not one of the {self.n_vocab} "
                "characters of the corpus; tokenizer=byte encodes any text"
            )
        return ids

    def cut(self, text: str) -> int:
        return len(text)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return "".join(self.characters[i] for i in np.asarray(ids, dtype=np.int64))

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        return self.decode(ids).encode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        return np.array([len(c.encode("utf-8", errors="replace")) for c in self.characters], dtype=np.int64)

    def state(self) -> JsonObject:
        return {"characters": self.characters}

    @classmethod
    def restore(cls, state: JsonObject) -> Self:
        characters, tokenizer = state["characters"], cls()
        if not isinstance(characters, str) or sorted(set(characters)) != list(characters):
            raise ValueError("expected characters that are sorted and different from each other")
        tokenizer._set(characters)
        return tokenizer


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
