"""The state of the checkout on a machine that has no git."""

from pathlib import Path

import pytest

from gptx.runs import provenance
from gptx.runs.preflight_facts import GitState


def test_state_is_unknown_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "gptx")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git() == GitState()
