"""No tokenizer: for ids that were made outside gptx. Text is a list of ids such as ``12 7 7``."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from gptx.errors import ConfigError, DataError
from gptx.runs.atomic_files import JsonObject
from gptx.tokenizer.base import Tokenizer

ID = "tokenizer.ids"
REVISION = 1


class IdTokenizer(Tokenizer):
    """Reads text as a list of ids.

    Args:
        n_vocab: number of ids.
        eot: the id between two documents; -1: none.

    Raises:
        ConfigError: ``n_vocab`` is below 1, or ``eot`` is not below ``n_vocab``.
    """

    name = "ids"

    def __init__(self, *, n_vocab: int, eot: int) -> None:
        if n_vocab < 1:
            raise ConfigError(f"tokenizer.n_vocab={n_vocab}: expected the number of ids, more than the largest id")
        if not -1 <= eot < n_vocab:
            raise ConfigError(f"tokenizer.eot={eot}: expected an id below tokenizer.n_vocab={n_vocab}, or -1: none")
        self.n_vocab, self.eot = n_vocab, None if eot < 0 else eot

    def fingerprint(self) -> str:
        return f"ids {self.n_vocab} {self.eot}"

    def encode(self, text: str) -> np.ndarray:
        words = text.split()
        wrong = [word for word in words if not word.isdecimal() or int(word) >= self.n_vocab]
        if wrong:
            raise DataError(f"{wrong[0]!r} is no id: expected numbers below {self.n_vocab}, such as '12 7 7'")
        return np.array(words, dtype=np.int64)

    def separator(self) -> np.ndarray:
        return np.array([] if self.eot is None else [self.eot], dtype=np.int64)

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        return "".join(f"{i} " for i in np.asarray(ids, dtype=np.int64)).encode()

    def token_bytes(self) -> np.ndarray:
        """One for each id, so that bits per byte are bits per id."""
        return np.ones(self.n_vocab, dtype=np.int64)

    def target_bytes(self) -> np.ndarray:
        return self.token_bytes()

    def state(self) -> JsonObject:
        return {"n_vocab": self.n_vocab, "eot": -1 if self.eot is None else self.eot}

    @classmethod
    def restore(cls, state: JsonObject) -> Self:
        return cls(n_vocab=state["n_vocab"], eot=state["eot"])
