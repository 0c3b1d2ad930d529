"""A tokenizer of your own.

What the base class requires, and what it offers: docs/contracts.md#tokenizer of gptx.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np

from gptx.runs.atomic_files import JsonObject
from gptx.tokenizer.base import Tokenizer


class TokenizerTemplate(Tokenizer):
    """The 256 bytes of utf-8, without upper case, and an id that separates documents."""

    name = "mine"
    n_vocab = 257
    eot = 256

    def fingerprint(self) -> str:
        return "mine"  # with keys of the YAML file: also their values

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.lower().encode("utf-8", errors="replace"), dtype=np.uint8)

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        return bytes(int(i) for i in ids if i != self.eot)

    def token_bytes(self) -> np.ndarray:
        return np.array([1] * 256 + [0], dtype=np.int64)

    def state(self) -> JsonObject:
        return {}

    @classmethod
    def restore(cls, state: JsonObject) -> Self:
        return cls()
