"""Token files -> batches. The rows of a batch are a pure function of (seed, step): equal on every machine and rank."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gptx.data.tokens import Tokens
from gptx.errors import DataError

Ids = npt.NDArray[np.int64]
NO_TARGET = -100  # torch leaves such targets out of a cross entropy


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that one rank trains on in one step.

    Attributes:
        tokens: (own rows, context + 1): inputs are ``[:, :-1]``, targets ``[:, 1:]``.
        starts: (batch_size,) where each row of the global batch starts in the corpus, those of other ranks included.
    """

    tokens: Ids
    starts: Ids


class TrainingRows:
    """Reads the rows of one rank. While a step runs, a thread reads the rows of the next one.

    Args:
        tokens: the training split, a memory-mapped array.
        own: the rows of the global batch that this rank reads.
    """

    def __init__(self, tokens: np.ndarray, seed: int, batch_size: int, context: int, own: slice) -> None:
        self.tokens, self.seed, self.batch_size, self.context, self.own = tokens, seed, batch_size, context, own
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: dict[int, Future[Rows]] = {}

    def of_step(self, step: int) -> Rows:
        """The rows of a step; the thread then reads those of the next step."""
        rows = self._ahead.pop(step, None) or self._thread.submit(self._read, step)
        self._ahead = {step + 1: self._thread.submit(self._read, step + 1)}
        return rows.result()

    def _read(self, step: int) -> Rows:
        starts = row_starts(len(self.tokens), self.seed, step, self.batch_size, self.context)
        return Rows(read_rows(self.tokens, starts[self.own], self.context), starts)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)


def row_starts(n_tokens: int, seed: int, step: int, batch_size: int, context: int) -> Ids:
    """(batch_size,) random starts of the rows of a step's global batch; ``seed`` and ``step`` are at least 0.

    A counter-based generator has no state that a resume would have to restore. Its raw 64 bits are equal in every
    version of numpy; the numbers that numpy derives from them may change.
    """
    bits = np.random.Philox(key=np.array([seed, step], dtype=np.uint64)).random_raw(batch_size)
    return (bits % (n_tokens - context)).astype(np.int64)


def read_rows(tokens: np.ndarray, starts: Ids, context: int) -> Ids:
    """The context + 1 tokens from each start: (len(starts), context + 1)."""
    rows: Ids = tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)
    return rows


def validation_starts(n_tokens: int, context: int, max_tokens: int, incomplete: bool = True) -> Ids:
    """Ordered starts of rows that do not overlap: all of them, or rows of about ``max_tokens`` tokens, evenly spread.

    Targets are the next tokens, so no token is predicted twice.

    Args:
        max_tokens: 0: all rows.
        incomplete: whether all rows include a last one with fewer than ``context`` targets.
    """
    n = (n_tokens - 1) // context
    if max_tokens == 0 and incomplete:
        n = -(-(n_tokens - 1) // context)
    count = n if max_tokens == 0 else min(n, max(1, max_tokens // context))
    return np.arange(count, dtype=np.int64) * n // max(count, 1) * context


def validation_rows(tokens: np.ndarray, starts: Ids, context: int) -> tuple[Ids, Ids]:
    """The inputs and the targets (len(starts), context) of rows. Targets after the end of the text are `NO_TARGET`."""
    at = starts[:, None] + np.arange(context + 1)
    rows: Ids = tokens[np.minimum(at, len(tokens) - 1)].astype(np.int64)
    return rows[:, :-1], np.where(at < len(tokens), rows, NO_TARGET)[:, 1:]


def check_context(tokens: Tokens, context: int) -> None:
    """Check that the training and the validation split are longer than a context.

    Raises:
        DataError: one of the splits is too short.
    """
    shortest = min(len(tokens.train), len(tokens.val))
    if shortest < context + 1:
        side = "train" if len(tokens.train) == shortest else "val"
        raise DataError(
            f"context longer than the corpus: context={context} needs {context + 1} tokens, "
            f"{tokens.meta.corpus} has {shortest} {side} tokens; "
            + (f"at most context={shortest - 1} works" if shortest > 1 else "use more text")
        )
