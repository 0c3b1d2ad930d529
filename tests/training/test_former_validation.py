"""A finished run with the validation of an earlier version: its command shows the result and one warning."""

import logging
from pathlib import Path

import pytest
from fake_runs import result

from gptx.runs.folder import RunFolder
from gptx.runs.records import VALIDATION, write_result
from gptx.training.run_lifecycle import _warn_of_former_validation


def warnings(folder: Path, caplog: pytest.LogCaptureFixture, validation: int, val_tokens: int) -> list[str]:
    caplog.clear()
    found = result(2.0, validation=validation, config={"trainer": {"val_tokens": val_tokens}})
    write_result(folder / "result.json", found)
    with caplog.at_level(logging.WARNING, "gptx"):
        _warn_of_former_validation(RunFolder(folder))
    return [record.getMessage() for record in caplog.records]


def test_a_result_of_the_former_validation_gets_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("gptx"), "propagate", True)
    assert warnings(tmp_path, caplog, VALIDATION, 0) == []
    [line] = warnings(tmp_path, caplog, 1, 100)
    assert "bits per byte had another definition (1, now 2)" in line
    [line] = warnings(tmp_path, caplog, 1, 0)
    assert "bits per byte and validation loss (trainer.val_tokens=0) had" in line
