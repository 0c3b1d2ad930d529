"""The base of gpt2 and bpe: merge ranks, encoded by tiktoken."""

import base64
import unicodedata
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from gptx.runs.atomic_files import JsonObject
from gptx.tokenizer.base import EOT_TEXT, Tokenizer

if TYPE_CHECKING:
    from tiktoken import Encoding

# GPT-2's rule for splitting text before merging, in tiktoken's equivalent form, which is faster
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class RankTokenizer(Tokenizer):
    """An id is the rank of a merge; ``eot`` is the id after the last one."""

    @abstractmethod
    def ranks(self) -> list[bytes]:
        """The bytes of each id except ``eot``."""

    @cached_property
    def encoding(self) -> "Encoding":
        from tiktoken import Encoding

        ranks = self.ranks()
        return Encoding(
            self.name,
            pat_str=PATTERN,
            mergeable_ranks={token: rank for rank, token in enumerate(ranks)},
            special_tokens={EOT_TEXT: len(ranks)},
        )

    def encode(self, text: str) -> np.ndarray:
        return self.encoding.encode_to_numpy(replace_surrogates(text), disallowed_special=())

    def cut(self, text: str) -> int:
        """Before a space or line feed that follows another character, or between a letter and punctuation: no match of
        `PATTERN` contains such a place, and what it looks ahead for is on the same side."""
        places = (i for i in range(len(text) - 1, 0, -1) if _separate(text[i - 1], text[i]))
        return next(places, 0)

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        return self.encoding.decode_bytes(np.asarray(ids, dtype=np.int64).tolist())

    def token_bytes(self) -> np.ndarray:
        return np.array([*map(len, self.ranks()), 0], dtype=np.int64)

    def state(self) -> JsonObject:
        return {"ranks": " ".join(base64.b64encode(token).decode() for token in self.ranks())}

    @classmethod
    def restore(cls, state: JsonObject) -> Self:
        ranks = [base64.b64decode(token, validate=True) for token in state["ranks"].split(" ")]
        if len(set(ranks)) < len(ranks) or not {bytes([byte]) for byte in range(256)} <= set(ranks):
            raise ValueError("expected ranks that are different from each other and contain all 256 bytes")
        return cls.of(ranks)

    @classmethod
    @abstractmethod
    def of(cls, ranks: list[bytes]) -> Self:
        """Create a fitted tokenizer from ``ranks``, see `ranks`."""


def replace_surrogates(text: str) -> str:
    """The text with a question mark for each lone surrogate, which is no character."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _separate(before: str, after: str) -> bool:
    """Whether `PATTERN` splits between two characters for certain."""
    if after in " \n":
        return not before.isspace()
    return _category(before) == "L" and _category(after) == "P"


def _category(character: str) -> str:
    """L for letters, P for punctuation; "" where it depends on the version of Unicode: tiktoken may have another."""
    new, old = unicodedata.category(character)[0], unicodedata.ucd_3_2_0.category(character)[0]
    return new if new == old else ""
