"""The selection half of the validation text decides; the report half has the figures of a result."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Gptx, history

from gptx.errors import ConfigError
from gptx.runs.unit_losses import NAME, UnitLosses, read_unit_losses, write_unit_losses

LIKE_TRAINING, OTHER = "ab" * 40, "qz" * 40


def corpus(gptx: Gptx, *halves: str) -> str:
    """Documents like the training text, but the validation documents, every tenth one, alternate between two texts.
    The first one is that of the selection half."""
    texts = [halves[i // 10 % 2] if i % 10 == 9 else LIKE_TRAINING for i in range(160)]
    (gptx.cwd / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return "data.path=a.jsonl"


def finished(gptx: Gptx, *overrides: str) -> dict[str, Any]:
    done = gptx("paths.data=tokens", "trainer.val_tokens=0", *overrides)
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads((gptx.folder / "result.json").read_text())
    return result


def test_early_stopping_and_best_weights_follow_the_selection_half(gptx: Gptx) -> None:
    """The loss of the training text falls until the end, that of another text rises soon."""
    patient = ("trainer.patience=1", "trainer.max_steps=60", "optim.lr=3e-3")
    falls = finished(gptx, corpus(gptx, LIKE_TRAINING, OTHER), *patient)
    curves = history(gptx.folder)
    report = {step: value for (key, step), value in curves.items() if key == "val/loss"}
    assert min(report, key=report.__getitem__) < 60
    assert (falls["end_reason"], falls["steps"], falls["best_step"]) == ("completed", 60, 60)
    assert falls["val_loss"] == falls["val_loss_best"] == report[60] > min(report.values())
    assert falls["val_loss_select"] < falls["val_loss_whole"] < falls["val_loss"]


def test_a_rising_selection_half_stops_a_run(gptx: Gptx) -> None:
    rises = finished(
        gptx, corpus(gptx, OTHER, LIKE_TRAINING), "trainer.patience=1", "trainer.max_steps=60", "optim.lr=3e-3"
    )
    curves = history(gptx.folder)
    assert rises["end_reason"] == "early_stopped" and rises["best_step"] == rises["steps"] - 10 < 50
    assert curves["val/loss", rises["steps"]] == rises["val_loss"] < curves["val/loss", rises["best_step"]]
    assert rises["val_loss_best"] == curves["val/loss", rises["best_step"]]
    assert read_unit_losses(gptx.folder).step == rises["steps"]


def test_losses_by_unit_add_up_to_the_result_and_do_not_depend_on_batches_or_ranks(gptx: Gptx) -> None:
    text = corpus(gptx, LIKE_TRAINING, OTHER)
    first = finished(gptx, text)
    losses = read_unit_losses(gptx.folder)
    assert losses.step == 30 and set(losses.document) == set(range(16))
    for view, chosen in (("", losses.report), ("_select", losses.select), ("_whole", losses.report | losses.select)):
        nats, tokens, size = (x[chosen].sum() for x in (losses.nats, losses.tokens, losses.size))
        assert nats / tokens == pytest.approx(first[f"val_loss{view}"], rel=1e-12)
        assert nats / math.log(2) / size == pytest.approx(first[f"val_bpb{view}"], rel=1e-12)
    assert not (losses.report & losses.select).any() and losses.tokens[losses.report].sum() > 0
    for change in ("runtime.val_batch=3", "strategy=ddp"):
        shutil.rmtree(gptx.outputs)
        finished(gptx, text, change)
        again = read_unit_losses(gptx.folder)
        for name, array in vars(losses).items():
            assert np.allclose(getattr(again, name), array, rtol=1e-5), (change, name)


def test_one_row_is_no_two_halves(gptx: Gptx) -> None:
    done = gptx("trainer.val_tokens=16")
    assert done.code == 0 and "too few for a selection and a report half" in done.err
    result = json.loads((gptx.folder / "result.json").read_text())
    assert result["val_loss"] == result["val_loss_select"] == result["val_loss_whole"]


def losses(count: int) -> UnitLosses:
    ids, half = np.arange(count), np.arange(count) % 2 == 0
    return UnitLosses(
        step=7, document=ids, offset=ids, select=half, report=~half, nats=ids / 3, tokens=ids + 1, size=ids
    )


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with pytest.raises(FileNotFoundError):
        read_unit_losses(tmp_path)
    write_unit_losses(tmp_path, losses(5))
    found = read_unit_losses(tmp_path)
    assert all(np.array_equal(getattr(found, name), array) for name, array in vars(losses(5)).items())
    good = path.read_bytes()
    for bad in (b"", good[:-3], good.replace(b"nats", b"gnat"), good.replace(b'"F64"', b'"I64"'), b"\0" * (2**23 + 1)):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="is damaged"):
            read_unit_losses(tmp_path)
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(good)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="symbolic link"):
        read_unit_losses(tmp_path)
