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

    def warnings(validation: int) -> list[str]:
        write_result(tmp_path / "result.json", result(2.0, validation=validation))
        _warn_of_former_validation(RunFolder(tmp_path))
        return capsys.readouterr().err.splitlines()

    assert warnings(VALIDATION) == []
    for former in range(1, VALIDATION):
        [line] = warnings(former)
        assert f"validation metrics had another definition ({former}, now {VALIDATION})" in line
