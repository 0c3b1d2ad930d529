"""Documents packed into one row, hidden from one another by data.document_mask (the models: test_variants.py)."""

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Gptx
from helpers_model import CONTEXT, VOCAB, arm, random_model, rows, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from gptx.config.instantiate import part
from gptx.geometry.visibility import Where, documents
from gptx.training.evaluation import ValidationSet


@settings(max_examples=33)
@given(text=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=20), min_size=1, max_size=3))
def test_documents_and_positions_start_at_separators(text: list[list[int]]) -> None:
    """Token 0 is the separator. The expected ids are computed in plain Python, token by token."""
    length = max(map(len, text))
    tokens = [row + [1] * (length - len(row)) for row in text]
    expected_docs, expected_pos = [], []
    for row in tokens:
        doc = pos = 0
        docs, places = [], []
        for token in row:
            if token == 0:
                doc, pos = doc + 1, 0
            docs.append(doc)
            places.append(pos)
            pos += 1
        expected_docs.append(docs)
        expected_pos.append(places)
    ids = documents(torch.tensor(tokens), 0)
    where = Where.packed(ids)
    assert ids.tolist() == expected_docs
    assert where.q_pos.tolist() == where.k_pos.tolist() == expected_pos
    same = torch.tensor(expected_docs)
    assert where.q_doc is not None and where.k_doc is where.q_doc and not where.aligned
    assert torch.equal(where.q_doc[:, :, None] == where.q_doc[:, None], same[:, :, None] == same[:, None])


@pytest.mark.parametrize("masked", [True, False])
def test_validation_hides_other_documents(masked: bool) -> None:
    model = random_model(tiny(arm(pos="learned", window="sliding")))
    tokens = rows(1, 4 * CONTEXT + 1)[0].numpy().astype(np.uint16)
    single = part(tiny().strategy)
    separator = 3 if masked else None
    with single.open("cpu"):
        validation_set = ValidationSet(tokens, np.ones(VOCAB, dtype=np.int64), CONTEXT, 0, 2, separator)
        found = validation_set.evaluate(model, single, contextlib.nullcontext).values["val/loss_whole"]
    nats = 0.0
    for start in range(0, 4 * CONTEXT, CONTEXT):
        window = tokens[start : start + CONTEXT + 1].astype(np.int64)
        ends = [i for i in range(1, CONTEXT) if masked and window[i] == 3]
        for a, b in zip([0, *ends], [*ends, CONTEXT], strict=True):
            if a < b:
                x, y = (torch.from_numpy(window[i + a : i + b])[None] for i in (0, 1))
                nats += model(x, y).item() * (b - a)
    assert math.isclose(found, nats / (4 * CONTEXT), rel_tol=1e-5)


@pytest.fixture
def notes(tmp_path: Path) -> str:
    """A corpus of many short documents."""
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i * 37 % 101} is {i % 7}."}) + "\n" for i in range(3000)))
    return f"data.path={path}"


def test_document_mask_changes_the_loss_and_ddp_equals_single(gptx: Gptx, notes: str) -> None:
    """With the mask, the first token of a document sees no earlier token, so the loss differs."""
    loss = {}
    for words in (
        ("data.document_mask=false",),
        ("data.document_mask=true",),
        ("data.document_mask=true", "strategy=ddp"),
    ):
        done = gptx(notes, *words)
        assert done.code == 0, done.err
        folder = max(gptx.folders(), key=lambda f: (f / "result.json").stat().st_mtime_ns)
        loss[words] = json.loads((folder / "result.json").read_text())["val_loss"]
    plain, masked, spread = loss.values()
    assert abs(plain - masked) > 1e-4
    assert math.isclose(masked, spread, rel_tol=1e-5)


def test_document_mask_rejects_tokenizers_without_end_of_text(gptx: Gptx, notes: str) -> None:
    done = gptx(notes, "tokenizer=char", "data.document_mask=true")
    assert done.code == 2 and not gptx.outputs.exists()
    assert done.err == (
        "gptx: data.document_mask=true needs an end-of-text token, which tokenizer=char does not have: "
        "use tokenizer=byte, gpt2 or bpe\n"
    )
    assert gptx(notes, "tokenizer=bpe", "tokenizer.vocab_size=300", "data.document_mask=true").code == 0
