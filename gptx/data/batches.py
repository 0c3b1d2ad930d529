"""Token files -> batches. Pure functions: the same arguments give the same rows on every machine and rank."""

import numpy as np
import numpy.typing as npt

from gptx.data.tokens import Tokens
from gptx.errors import DataError

Ids = npt.NDArray[np.int64]


def train_batch(tokens: np.ndarray, seed: int, step: int, batch_size: int, context: int) -> Ids:
    """The global batch of a step, (batch_size, context + 1): inputs are ``[:, :-1]``, targets ``[:, 1:]``.

    A pure function of (seed, step), both >= 0: a counter-based generator has no state to resume, and its raw
    64 bits are the same in every version of numpy, which is not promised of what is drawn from them.
    """
    bits = np.random.Philox(key=np.array([seed, step], dtype=np.uint64)).random_raw(batch_size)
    return windows(tokens, (bits % (len(tokens) - context)).astype(np.int64), context)


def val_windows(tokens: np.ndarray, context: int, max_tokens: int) -> Ids:
    """Starts of windows that do not overlap, in order: all, or about ``max_tokens`` worth, evenly spread.

    ``max_tokens`` 0 = all. Targets are the next tokens, so no token is predicted twice.
    """
    n = (len(tokens) - 1) // context
    kept = n if max_tokens == 0 else min(n, max(1, max_tokens // context))
    return np.arange(kept, dtype=np.int64) * n // max(kept, 1) * context


def windows(tokens: np.ndarray, starts: Ids, context: int) -> Ids:
    """Rows of context + 1 tokens from each start, (len(starts), context + 1)."""
    rows: Ids = tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)
    return rows


def check_context(tokens: Tokens, context: int) -> None:
    """Refuse a context that the train or the validation tokens are too few for."""
    shortest = min(len(tokens.train), len(tokens.val))
    if shortest < context + 1:
        side = "train" if len(tokens.train) == shortest else "val"
        raise DataError(
            f"context longer than the corpus: context={context} needs {context + 1} tokens, "
            f"{tokens.meta['corpus']} has {shortest} {side} tokens; "
            + (f"at most context={shortest - 1} works" if shortest > 1 else "take more text")
        )
