"""What a tokenizer must be able to do, and how a saved one is found again."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from gptx.config.declared import current_target

EOT_TEXT = "<|endoftext|>"  # how the end-of-text token reads when it is decoded; never parsed out of text


class Tokenizer(ABC):
    """``n_vocab`` ids, of which ``eot`` separates documents (None: they are joined by a blank line)."""

    name: ClassVar[str]
    needs_fit: ClassVar[bool] = False
    fits_val: ClassVar[bool] = False  # fitted on the validation text too: right for an alphabet only
    n_vocab: int
    eot: int | None

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of what it is configured to be; what it learns follows from this and the corpus."""

    def fit(self, documents: Iterable[str]) -> None:
        """Learn the vocabulary. Where ``needs_fit``, before anything else is asked of it."""
        raise TypeError(f"tokenizer {self.name} has nothing to learn")

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """(n,) ids, of the smallest convenient integer type and maybe read-only: cast them for torch."""

    @abstractmethod
    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes: ...

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Bytes that are not utf-8, as models write them, become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    @abstractmethod
    def token_bytes(self) -> np.ndarray:
        """(n_vocab,) int64: bytes of utf-8 text that each id stands for, 0 for ``eot``. For bits per byte."""

    def separator(self) -> np.ndarray:
        """(n,) ids between two documents."""
        return self.encode("\n\n") if self.eot is None else np.array([self.eot])

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, as JSON."""

    @classmethod
    @abstractmethod
    def restore(cls, state: dict[str, Any]) -> Self: ...

    def to_json(self) -> dict[str, Any]:
        return {"class": f"{type(self).__module__}.{type(self).__qualname__}", **self.state()}


def load(path: Path) -> Tokenizer:
    """The tokenizer saved in a tokenizer.json, of whatever kind: the file names its class."""
    state = json.loads(path.read_text(encoding="utf-8"))
    module, _, name = current_target(state["class"]).rpartition(".")
    tokenizer: Tokenizer = getattr(import_module(module), name).restore(state)
    return tokenizer
