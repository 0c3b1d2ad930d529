"""The 256 bytes of utf-8, and end of text."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from gptx.runs.atomic_files import JsonObject
from gptx.tokenizer.base import EOT_TEXT, Tokenizer

ID = "tokenizer.byte"
REVISION = 1


class Byte(Tokenizer):
    """The id of a byte is its value; 256 is the end of a text."""

    name = "byte"
    n_vocab = 257
    eot = 256

    def fingerprint(self) -> str:
        return "byte"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", errors="replace"), dtype=np.uint8)

    def cut(self, text: str) -> int:
        return len(text)

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        array = np.asarray(ids, dtype=np.int64)
        documents = np.split(array, np.flatnonzero(array == self.eot))
        parts = [part[part != self.eot].astype(np.uint8).tobytes() for part in documents]
        return EOT_TEXT.encode().join(parts)

    def token_bytes(self) -> np.ndarray:
        return np.array([1] * 256 + [0], dtype=np.int64)

    def state(self) -> JsonObject:
        return {}

    @classmethod
    def restore(cls, state: JsonObject) -> Self:
        return cls()
