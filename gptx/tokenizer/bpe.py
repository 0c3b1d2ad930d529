"""Byte-pair encoding learned from the training documents by rustbpe, with GPT-2's rule for splitting text."""

from collections.abc import Iterable
from typing import Self

from gptx.errors import ConfigError, GptxError
from gptx.runs.hashing import digest
from gptx.tokenizer.bpe_ranks import PATTERN, RankTokenizer, replace_surrogates

ID = "tokenizer.bpe"
REVISION = 1


BUFFER = 256  # texts that rustbpe holds at once
MAX_VOCAB = 2**31  # ids are stored in 32 bits


class BPE(RankTokenizer):
    """``vocab_size`` ids: 256 bytes, the merges, and end of text last. A small corpus gives fewer merges."""

    name = "bpe"
    needs_fit = True

    def __init__(self, *, vocab_size: int) -> None:
        if not 257 <= vocab_size <= MAX_VOCAB:
            raise ConfigError(
                f"tokenizer.vocab_size={vocab_size}: expected 257 (256 bytes, end of text) to {MAX_VOCAB}, e.g. 4096"
            )
        self.n_vocab, self.eot = vocab_size, vocab_size - 1
        self._ranks: list[bytes] = []

    def fingerprint(self) -> str:
        return digest(["bpe", str(self.n_vocab), PATTERN])

    def fit(self, documents: Iterable[str]) -> None:
        from rustbpe import Tokenizer as Learner  # type: ignore[attr-defined]  # compiled, without stubs

        learner, texts = Learner(), map(replace_surrogates, documents)
        learner.train_from_iterator(texts, self.n_vocab - 1, buffer_size=BUFFER, pattern=PATTERN)
        self._set([bytes(token) for token, _ in sorted(learner.get_mergeable_ranks(), key=lambda pair: pair[1])])

    def ranks(self) -> list[bytes]:
        if not self._ranks:
            raise GptxError("tokenizer bpe is not fitted: gptx.data.tokens.prepare fits it on a corpus")
        return self._ranks

    def _set(self, ranks: list[bytes]) -> None:
        self._ranks = ranks
        self.n_vocab, self.eot = len(ranks) + 1, len(ranks)

    @classmethod
    def of(cls, ranks: list[bytes]) -> Self:
        tokenizer = cls(vocab_size=len(ranks) + 1)
        tokenizer._set(ranks)
        return tokenizer
