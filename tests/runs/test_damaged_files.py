"""Files with content that gptx did not write: one line that names the file, and the other runs are shown."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_runs import make_run, start
from safetensors import safe_open
from safetensors.torch import save_file

from gptx.compare.run_rows import read_rows
from gptx.errors import CheckpointError, ConfigError
from gptx.runs.damaged_files import DEEPEST, parse_json
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.preflight_facts import Hardware
from gptx.runs.records import ResumeRecord
from gptx.sweep.commands.status import CellStatus, status_rows
from gptx.sweep.state.folder import PlannedCell, Sweep, SweepPlan
from gptx.training.best_weights import save_best
from gptx.training.certificate import conditions_of
from gptx.training.comparison import _compare_best_weights
from gptx.training.repeat_training import certify

NESTED = "[" * 100_000 + "]" * 100_000
CONTENTS = [
    "[]",
    "{",
    NESTED,
    '{"status": []}',
    '{"val_loss": ' + "[" * 60 + "]" * 60 + "}",
    "\udcff",
    "1" * 5000,
    "null",
]


def test_only_flat_json_is_read() -> None:
    for depth in (1, DEEPEST - 1, DEEPEST):
        assert json.dumps(parse_json("[" * depth + "]" * depth)).count("[") == depth
    assert len(parse_json(json.dumps([[]] * 1000))) == 1000
    for text in ("[" * (DEEPEST + 3) + "]" * (DEEPEST + 3), b'{"a":' * 999 + b"1" + b"}" * 999, NESTED):
        with pytest.raises(ValueError, match="more than 50 levels"):
            parse_json(text)


@pytest.mark.parametrize("text", CONTENTS, ids=lambda text: text[:14])
@pytest.mark.parametrize("name", ["result.json", "journal.jsonl"])
def test_a_damaged_run_is_one_problem_line(tmp_path: Path, name: str, text: str) -> None:
    good = make_run(tmp_path, end="finished")
    bad = make_run(tmp_path, end="finished" if name == "result.json" else "killed")
    (bad / name).write_bytes(f"{text}\n".encode(errors="surrogateescape"))
    rows = {Path(row.run): row for row in read_rows([good, bad])}
    assert rows[good].finished and not rows[good].problem
    assert str(bad / name) in rows[bad].problem and "\n" not in rows[bad].problem


def test_a_link_in_a_run_does_not_hide_the_other_runs(tmp_path: Path) -> None:
    good, bad = (make_run(tmp_path, end="finished") for _ in range(2))
    (bad / "result.json").symlink_to(good / "journal.jsonl")
    rows = {Path(row.run): row for row in read_rows([good, bad])}
    assert rows[good].finished
    assert rows[bad].status == "damaged" and "is a symbolic link" in rows[bad].problem


def test_huge_integers_are_no_metrics(tmp_path: Path) -> None:
    bad = make_run(tmp_path, end="finished")
    (bad / "result.json").write_text(json.dumps({"status": "finished", "steps": 10**400, "val_loss": 10**400}))
    [row] = read_rows([bad])
    assert row.status in ("finished", "damaged")


def start_journal(folder: Path, **changes: Any) -> RunFolder:
    folder.mkdir()
    with Journal(folder) as journal:
        journal.write(replace(start("u" * 8), **changes))
    return RunFolder(folder)


def test_certify_names_what_the_journal_lacks(tmp_path: Path) -> None:
    hardware = Hardware(device="cpu", name="cpu")
    with pytest.raises(ValueError, match="no version of torch"):
        conditions_of(start_journal(tmp_path / "a", hardware=hardware, versions={}), 0, 10)
    versions = {"torch": "2"}
    with pytest.raises(ValueError, match="no strategy"):
        conditions_of(start_journal(tmp_path / "b", hardware=hardware, versions=versions, variant={}), 0, 10)
    folder = start_journal(tmp_path / "c", hardware=hardware, versions=versions)
    assert [one.torch for one in conditions_of(folder, 0, 10)] == ["2"]
    with Journal(folder.path) as journal:
        journal.write(ResumeRecord(step=5, hardware=hardware))
    with pytest.raises(ValueError, match="no version of torch"):
        conditions_of(folder, 0, 10)


@pytest.mark.parametrize("line", ['{"t": 1}', "[]", NESTED, '{"kind": "resume"}'], ids=lambda line: line[:9])
def test_certify_names_the_damaged_journal(tmp_path: Path, line: str) -> None:
    folder = start_journal(tmp_path / "run")
    (folder.path / "config.yaml").write_text("seed: 0\n")
    with (folder.path / "journal.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ConfigError, match=r"journal\.jsonl is damaged") as raised:
        certify(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("change", [{"step": "x"}, {"val/loss": "x"}, {"step": None}])
def test_certify_names_a_damaged_header_of_the_best_weights(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path)
    save_best(folder.checkpoints, 10, {"w": torch.ones(2)}, {"val/loss": 1.0})
    path = folder.checkpoints / "best/model.safetensors"
    with safe_open(path, "pt") as file:
        header = {key: value for key, value in {**file.metadata(), **change}.items() if value is not None}
    save_file({"w": torch.ones(2)}, path, header)
    with pytest.raises(CheckpointError, match=r"best/model\.safetensors is damaged"):
        _compare_best_weights(folder, folder, 10, {"step": 10.0, "val/loss": 1.0})


@pytest.mark.parametrize(
    "text", ["[]", "{}", "null", NESTED, '{"cells": [1]}', '{"cells": 1}', "{"], ids=lambda t: t[:13]
)
def test_a_damaged_plan_is_one_line(tmp_path: Path, text: str) -> None:
    sweep = Sweep(tmp_path, "it")
    sweep.path.mkdir(parents=True)
    (sweep.path / "plan.json").write_text(text)
    with pytest.raises(ConfigError, match=r"plan\.json is damaged"):
        _ = sweep.plan


@pytest.mark.parametrize("line", ["[]", "{}", '{"kind": []}', NESTED, '{"kind": "end"}'], ids=lambda line: line[:9])
def test_a_damaged_journal_of_a_sweep_is_one_line(tmp_path: Path, line: str) -> None:
    sweep = Sweep(tmp_path, "it")
    sweep.path.mkdir(parents=True)
    (sweep.path / "journal.jsonl").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=r"journal\.jsonl is damaged"):
        list(sweep.records())


def test_a_damaged_run_of_a_sweep_does_not_hide_the_others(tmp_path: Path) -> None:
    good, bad = make_run(tmp_path, end="interrupted"), make_run(tmp_path, end="interrupted")
    (bad / "journal.jsonl").write_text('{"t": 1}\n')
    cells = tuple(PlannedCell(title=run.name, arm="a", run=f"study/{run.name}") for run in (bad, good))
    sweep = Sweep(tmp_path, "it")
    sweep.path.mkdir(parents=True)
    sweep.save_plan(SweepPlan(cells=cells))
    rows = list(status_rows(sweep))
    assert [row.status for row in rows] == [CellStatus.FAILED, CellStatus.STOPPED]
    assert "journal.jsonl is damaged" in rows[0].detail
