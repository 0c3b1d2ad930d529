"""A finished run with the validation of an earlier version: its command shows the result and one warning."""

from pathlib import Path

import pytest
from fake_runs import result

from gptx.cli import configure_logging
from gptx.runs.folder import RunFolder
from gptx.runs.records import VALIDATION, write_result
from gptx.training.run_lifecycle import _warn_of_former_validation


def test_a_result_of_the_former_validation_gets_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(0)

    def warnings(validation: int, val_tokens: int) -> list[str]:
        found = result(2.0, validation=validation, config={"trainer": {"val_tokens": val_tokens}})
        write_result(tmp_path / "result.json", found)
        _warn_of_former_validation(RunFolder(tmp_path))
        return capsys.readouterr().err.splitlines()

    assert warnings(VALIDATION, 0) == []
    [line] = warnings(1, 100)
    assert "bits per byte had another definition (1, now 2)" in line
    [line] = warnings(1, 0)
    assert "bits per byte and validation loss (trainer.val_tokens=0) had" in line
