"""The rows of a batch: a pure function of (seed, step), read ahead by each rank separately."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptx.data.batches import (
    NO_TARGET,
    TrainingRows,
    check_context,
    read_rows,
    row_starts,
    validation_rows,
    validation_starts,
)
from gptx.data.text import Text
from gptx.data.tokens import prepare
from gptx.errors import DataError
from gptx.tokenizer.byte import Byte


@given(
    seed=st.integers(0, 2**63),
    step=st.integers(0, 2**40),
    batch=st.integers(1, 8),
    context=st.integers(1, 99),
)
def test_rows_are_a_pure_function_of_seed_and_step(seed: int, step: int, batch: int, context: int) -> None:
    tokens = np.arange(100, dtype=np.uint16)
    starts = row_starts(len(tokens), seed, step, batch, context)
    rows = read_rows(tokens, starts, context)
    assert rows.shape == (batch, context + 1)
    assert rows.dtype == np.int64
    assert (np.diff(rows, axis=1) == 1).all()  # consecutive tokens, inside the text
    np.testing.assert_array_equal(starts, row_starts(len(tokens), seed, step, batch, context))


def test_rows_differ_by_step_and_seed_and_cover_the_text() -> None:
    starts = {(seed, step): row_starts(50, seed, step, 8, 4).tolist() for seed in range(4) for step in range(50)}
    assert len(set(map(tuple, starts.values()))) == len(starts)
    assert {start for row in starts.values() for start in row} == set(range(46))  # 45 + 4 is the last token


def test_row_starts_never_change() -> None:
    assert row_starts(1000, 0, 0, 4, 8).tolist() == [731, 338, 281, 796]


def test_reading_a_batch_is_fast(tmp_path: Path) -> None:
    np.arange(1_000_000, dtype=np.uint16).tofile(tmp_path / "train.bin")
    tokens = np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r")
    times = []
    for step in range(200):
        begin = time.perf_counter()
        read_rows(tokens, row_starts(len(tokens), 0, step, 32, 128), 128)
        times.append(time.perf_counter() - begin)
    assert np.median(times) < 0.3e-3


class Watched(np.ndarray):
    """Tokens that record which of them are read, and by which thread."""

    read: list[tuple[str, list[int]]]

    def __getitem__(self, index: object) -> np.ndarray:
        assert isinstance(index, np.ndarray)
        self.read.append((threading.current_thread().name, index[:, 0].tolist()))
        found: np.ndarray = np.asarray(self)[index]
        return found


def test_a_rank_reads_its_own_rows_only_and_reads_the_next_step_ahead() -> None:
    tokens = np.arange(1000, dtype=np.uint16).view(Watched)
    tokens.read = []
    rows = TrainingRows(tokens, seed=3, batch_size=6, context=8, own=slice(2, 4))
    try:
        for step in (5, 6, 9):  # 9: not the one that was read ahead
            found, expected = rows.of_step(step), row_starts(1000, 3, step, 6, 8)
            assert found.starts.tolist() == expected.tolist()
            np.testing.assert_array_equal(found.tokens, read_rows(np.asarray(tokens), expected[2:4], 8))
    finally:
        rows.close()
    assert all(thread.startswith("batches") for thread, _ in tokens.read)
    own = [row_starts(1000, 3, step, 6, 8)[2:4].tolist() for step in (5, 6, 7, 9, 10)]
    assert [starts for _, starts in tokens.read] in (own, own[:-1])  # the last one may be cancelled


def test_an_error_of_the_reading_thread_is_raised() -> None:
    rows = TrainingRows(np.arange(4, dtype=np.uint16), seed=-1, batch_size=2, context=3, own=slice(0, 2))
    with pytest.raises(OverflowError):
        rows.of_step(0)
    rows.close()


@given(n=st.integers(2, 300), context=st.integers(1, 40), cap=st.integers(0, 400))
def test_validation_rows_do_not_overlap(n: int, context: int, cap: int) -> None:
    if n < context + 1:
        return
    starts = validation_starts(n, context, cap, incomplete=False)
    fitting = (n - 1) // context
    assert len(starts) == (fitting if cap == 0 else min(fitting, max(1, cap // context)))
    assert (np.diff(starts) >= context).all()
    assert starts[0] == 0 and starts[-1] + context + 1 <= n
    if len(starts) > 1:
        assert np.diff(starts).max() - np.diff(starts).min() <= context  # evenly spread


@given(n=st.integers(2, 300), context=st.integers(1, 40))
def test_the_whole_validation_split_is_predicted_once(n: int, context: int) -> None:
    tokens = np.arange(n, dtype=np.uint16)
    x, y = validation_rows(tokens, validation_starts(n, context, 0), context)
    assert x.shape == y.shape == (-(-(n - 1) // context), context)
    assert y[y != NO_TARGET].tolist() == list(range(1, n))
    assert (y - x)[y != NO_TARGET].tolist() == [1] * (n - 1)  # each target follows its input
    assert (x < n).all()


def test_rows_hold_inputs_and_their_next_tokens() -> None:
    rows = read_rows(np.arange(21, dtype=np.uint16), validation_starts(21, 5, 0), 5)
    assert rows.tolist() == [list(range(start, start + 6)) for start in (0, 5, 10, 15)]
    assert rows.dtype == np.int64


def test_context_longer_than_the_corpus_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x" * 100)
    corpus = Text(path=[str(tmp_path / "x.txt")], text_key="text", val_fraction=0.1, max_tokens=0)
    tokens = prepare(corpus, Byte(), tmp_path / "cache", quiet=True)
    check_context(tokens, 9)
    with pytest.raises(DataError) as caught:
        check_context(tokens, 10)
    assert str(caught.value) == (
        "context longer than the corpus: context=10 needs 11 tokens, text has 10 val tokens; at most context=9 works"
    )
    short = replace(tokens, train=tokens.train[:5])
    with pytest.raises(DataError, match=r"has 5 train tokens; at most context=4 works"):
        check_context(short, 9)
