"""Bits per byte: of the documents joined by blank lines, over all tokens, equal in meaning for all tokenizers."""

import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from command import Gptx
from helpers_data import Listed, make_tokenizer
from torch import Tensor, nn

from gptx.data.split import split_documents
from gptx.data.tokens import prepare
from gptx.runs import journal
from gptx.runs.unit_losses import NAME as UNIT_LOSSES
from gptx.strategy.single import Single
from gptx.training.evaluation import ValidationSet

DOCUMENTS = [f"document {i} of sixty bytes, with a naïve word or two in it" for i in range(60)]


class Uniform(nn.Module):
    """Predicts each of ``n`` tokens with the same probability."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.logits = torch.zeros(n)

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return self.logits.expand(*x.shape, -1)


@pytest.mark.parametrize("name", ["byte", "char", "gpt2", "bpe"])
def test_tokenizers_count_the_same_bytes(name: str, tmp_path: Path) -> None:
    corpus = Listed(DOCUMENTS)
    tokens = prepare(corpus, make_tokenizer(name), tmp_path, quiet=True)
    text = "\n\n".join(str(text) for split, text in split_documents(iter(DOCUMENTS), 0.1) if split == "val")
    sizes = tokens.tokenizer.target_bytes()
    assert sizes[tokens.val].sum() == len(text.encode())
    with Single(nproc=1).open("cpu") as strategy:
        validation = ValidationSet(tokens.val, sizes, 16, 0, 4).evaluate(Uniform(len(sizes)), strategy, nullcontext)
    found = validation.values
    nats = (len(tokens.val) - 1) * math.log(len(sizes))  # the first token is not predicted
    assert found["val/bpb_whole"] == pytest.approx(nats / math.log(2) / sizes[tokens.val[1:]].sum(), rel=1e-5)
    assert found["val/loss"] == pytest.approx(math.log(len(sizes)), rel=1e-5)


def test_end_of_text_counts_as_a_blank_line() -> None:
    for name in ("byte", "gpt2"):
        tokenizer = make_tokenizer(name)
        assert tokenizer.token_bytes()[tokenizer.eot] == 0
        assert tokenizer.target_bytes()[tokenizer.eot] == 2
        assert (tokenizer.target_bytes()[:-1] == tokenizer.token_bytes()[:-1]).all()


def test_a_run_of_an_earlier_version_keeps_its_definitions(gptx: Gptx) -> None:
    """Such a run is resumed and certified with the definitions that it was started with."""
    (gptx.cwd / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in DOCUMENTS))
    words = ("data.path=a.jsonl", "paths.data=tokens", "trainer.val_tokens=0")
    assert gptx(*words).code == 0
    new = json.loads((gptx.folder / "result.json").read_text())
    assert new["validation"] == 3
    whole = {key: new[f"{key}_whole"] for key in ("val_loss", "val_bpb")}

    folder, path = gptx.folder, gptx.folder / journal.NAME
    start = json.loads(path.read_text().splitlines()[0])
    for version in (1, 2):
        for left in ("result.json", UNIT_LOSSES, "checkpoints"):
            if (folder / left).exists():
                (shutil.rmtree if left == "checkpoints" else Path.unlink)(folder / left)
        path.write_text(json.dumps(start | {"validation": version}) + "\n")
        assert gptx(*words).code == 0
        old = json.loads((folder / "result.json").read_text())
        assert old["validation"] == version
        assert old["train_loss"] == new["train_loss"] and old["val_loss_select"] is None
        assert not (folder / UNIT_LOSSES).exists()
        if version == 1:
            assert old["val_bpb"] > whole["val_bpb"] and old["val_loss"] != pytest.approx(whole["val_loss"], rel=1e-6)
        else:  # its last validation is its best one
            assert old["best_step"] == 30 and {key: old[key] for key in whole} == pytest.approx(whole, rel=1e-6)
        done = gptx.run("gptx.certify", str(folder))
        assert done.code == 0 and "bitwise equal" in done.out
