"""The halves of the validation text: disjoint, balanced, whole documents, and the same text for every tokenizer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptx.data import validation_units
from gptx.data.batches import Ids, validation_starts
from gptx.data.validation_units import BLOCKS, ValidationUnits, split_validation

EOT = 0
BYTES = np.array([2, 1, 3, 1, 5])  # of each token; the end-of-text token has two


def split(
    tokens: np.ndarray, context: int, max_tokens: int = 0, token_bytes: np.ndarray = BYTES, eot: int | None = EOT
) -> tuple[ValidationUnits, Ids]:
    """The units, and the positions of all targets."""
    starts = validation_starts(len(tokens), context, max_tokens)
    targets = (starts[:, None] + np.arange(1, context + 1)).ravel()
    return split_validation(tokens, starts, context, token_bytes, eot), targets[targets < len(tokens)]


def texts(least: int) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.integers(0, 4), min_size=least, max_size=400).map(lambda ids: np.array(ids, np.uint16))


@given(texts(20), st.integers(1, 9), st.sampled_from([0, 40, 100]), st.sampled_from([EOT, None]))
def test_halves_are_disjoint_and_cover_all_targets(
    tokens: np.ndarray, context: int, max_tokens: int, eot: int | None
) -> None:
    units, targets = split(tokens, context, max_tokens, eot=eot)
    unit = units.of(targets)
    assert units.tokens.tolist() == np.bincount(unit, minlength=len(units.starts)).tolist()
    assert units.size.tolist() == np.bincount(unit, BYTES[tokens[targets]], len(units.starts)).tolist()
    assert units.tokens.sum() == len(targets) and (units.tokens > 0).all()
    names = list(zip(units.document.tolist(), units.offset.tolist(), strict=True))
    assert names == sorted(set(names))  # each name once, in the order of the text
    if units.select.all():
        assert units.report.all()
    else:
        assert (units.select ^ units.report).all() and units.select.any() and units.report.any()
    document = np.searchsorted(np.flatnonzero(tokens == EOT), targets) if eot == EOT else 0 * targets
    assert (units.document[unit] == document).all()


@given(texts(40), st.integers(1, 9))
def test_halves_are_balanced_and_consist_of_documents(tokens: np.ndarray, context: int) -> None:
    units, _ = split(tokens, context)
    if units.select.all():
        return
    total, largest = BYTES[tokens].sum(), 2 * max(BYTES)  # a token belongs to one block, and the first has no target
    difference = abs(int(units.size[units.select].sum()) - int(units.size[units.report].sum()))
    assert difference <= total / BLOCKS + BLOCKS * largest
    for document in np.unique(units.document):
        own = units.document == document
        if units.size[own].sum() + largest < total / BLOCKS:
            assert len(set(units.report[own])) == 1


def test_equal_documents_alternate() -> None:
    units, _ = split(np.array(20 * [1, 1, 1, EOT]), 4)
    halves = {document: set(units.report[units.document == document].tolist()) for document in range(20)}
    assert list(halves.values()) == 10 * [{False}, {True}]


def test_one_long_document_is_cut_into_alternating_blocks() -> None:
    units, targets = split(np.ones(8001, np.uint16), 10, eot=None)
    report = units.report[units.of(targets)]
    changes = np.flatnonzero(np.diff(report)) + 1
    assert len(changes) == BLOCKS - 1 and changes == pytest.approx(np.arange(1000, 8000, 1000), abs=2)
    assert not report[0] and len(units.starts) == validation_units.UNITS


@given(st.lists(st.integers(1, 30), min_size=9, max_size=30), st.integers(1, 9), st.integers(1, 9))
def test_halves_are_the_same_text_for_all_tokenizers_and_contexts(lengths: list[int], one: int, two: int) -> None:
    """One tokenizer has a token for each byte, the other one a token for three bytes; documents are not cut."""
    lengths += [max(lengths)] * (2 * BLOCKS)
    found = []
    for token, per_token, context in ((1, 3, one), (2, 1, two)):
        documents = ([token] * length * per_token for length in lengths)
        tokens = np.array([i for document in documents for i in (*document, EOT)], np.uint16)
        units, _ = split(tokens, context)
        found.append([set(units.report[units.document == i].tolist()) for i in range(len(lengths))])
    assert found[0] == found[1]
    assert {len(halves) for halves in found[0][1:]} == {1}


def test_one_row_is_in_both_halves() -> None:
    units, _ = split(np.arange(5, dtype=np.uint16), 4)
    assert units.select.all() and units.report.all() and units.tokens.sum() == 4
    units, _ = split(np.ones(9, np.uint16), 4)
    assert not units.select.all() and units.tokens[units.select].sum() == units.tokens[units.report].sum() == 4


def test_chunks_do_not_change_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.default_rng(0).integers(0, 5, 3000).astype(np.uint16)
    whole, _ = split(tokens, 7, 1500)
    monkeypatch.setattr(validation_units, "_CHUNK", 50)
    parts, _ = split(tokens, 7, 1500)
    for name, array in vars(whole).items():
        assert (getattr(parts, name) == array).all(), name


def test_many_documents_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.array(100 * [1, EOT], np.uint16)
    monkeypatch.setattr(validation_units, "MOST_DOCUMENTS", 10)
    units, targets = split(tokens, 5)
    assert len(units.starts) <= 10 + BLOCKS + validation_units.UNITS and units.tokens.sum() == len(targets)
    assert set(units.document % 11) == {0}  # 101 documents (the last one is empty), eleven together
