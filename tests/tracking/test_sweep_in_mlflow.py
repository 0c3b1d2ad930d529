"""A sweep in MLflow: a parent run with the report and its tables, and the runs nested under it."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_runs import ask, database, make_run, trained

from gptx.runs.sweep_runs import PLAN, REPORT
from gptx.tracking import mlflow_view, ui_server
from gptx.tracking.mlflow_connection import Store
from gptx.tracking.sync import sync

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow imports deprecated parts of sqlalchemy


def sweep_of(outputs: Path, name: str, runs: list[Path], started: int = 1000) -> Path:
    """The folder of a sweep with these runs and a report."""
    folder = outputs / ".sweeps" / name
    (folder / REPORT).mkdir(parents=True)
    cells = [{"title": str(i), "run": f"study/{run.name}"} for i, run in enumerate(runs)] + [
        {"title": "x", "run": None}
    ]
    (folder / PLAN).write_text(json.dumps({"study": "study", "command": "gptx sweep seed=0,1", "cells": cells}))
    lines = [{"t": started, "kind": "command"}, {"t": started + 9000, "kind": "end"}]
    (folder / "journal.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / REPORT / "report.html").write_text("<p>report</p>")
    (folder / REPORT / "effects.csv").write_text("arm\n")
    return folder


def parents(outputs: Path) -> dict[str, Any]:
    """{name of a sweep: its parent run}."""
    client = Store(outputs).client
    ids = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(ids, "tags.`gptx.sweep` != ''")
    assert len({run.data.tags["gptx.sweep"] for run in found}) == len(found)
    return {run.data.tags["gptx.sweep"]: run for run in found}


def children(outputs: Path, parent: Any) -> set[str]:
    """The uids of the runs under a parent."""
    query = "select u.value from tags p join tags u on p.run_uuid = u.run_uuid where u.key = 'gptx.uid'"
    rows = ask(database(outputs), f"{query} and p.key = 'mlflow.parentRunId' and p.value = ?", parent.info.run_id)
    return {uid for (uid,) in rows}


def artifacts(outputs: Path, parent: Any) -> dict[str, str]:
    folder = outputs / ".mlflow" / "artifacts" / str(parent.info.run_id)
    return {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_sync_writes_the_parent_and_repeats_nothing(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    runs = [make_run(outputs, uid=letter * 32, seed=i) for i, letter in enumerate("abc")]
    folder = sweep_of(outputs, "study-1", runs[:2])
    for _ in range(2):
        assert sync(outputs, show=False) == (3, [])
        (parent,) = parents(outputs).values()
        assert children(outputs, parent) == {"a" * 32, "b" * 32}
        assert artifacts(outputs, parent) == {"report.html": "<p>report</p>", "effects.csv": "arm\n"}
        shown = (parent.info.status, parent.info.start_time, parent.info.end_time, parent.info.run_name)
        assert shown == ("FINISHED", 1000, 10_000, "sweep study-1")
        assert "gptx sweep seed=0,1" in parent.data.tags["mlflow.note.content"]
    (folder / REPORT / "report.html").write_text("<p>newer</p>")
    sync(outputs / "study", show=False)
    assert artifacts(outputs, parents(outputs)["study-1"])["report.html"] == "<p>newer</p>"


def test_parent_is_running_while_the_sweep_is_and_runs_of_two_sweeps_belong_to_the_later_one(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    runs = [make_run(outputs, uid=letter * 32, seed=i) for i, letter in enumerate("abc")]
    first = sweep_of(outputs, "study-1", runs[:2])
    second = sweep_of(outputs, "study-2", runs[1:])
    (second / PLAN).touch()
    with trained(first):
        sync(outputs, show=False)
    found = parents(outputs)
    assert [found[name].info.status for name in ("study-1", "study-2")] == ["RUNNING", "FINISHED"]
    assert children(outputs, found["study-1"]) == {"a" * 32}
    assert children(outputs, found["study-2"]) == {"b" * 32, "c" * 32}


def test_parents_do_not_change_the_saved_view(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    runs = [make_run(outputs, seed=seed) for seed in range(2)]
    sync(outputs, show=False)
    params: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_view, "view", lambda found, ranges: params.append(list(found)) or "{}")
        for _ in range(2):
            ui_server.write_views(Store(outputs))
            sweep_of(outputs, f"study-{len(params)}", runs)
            sync(outputs, show=False)
    assert params[0] == params[1] and len(params[0]) == 2


def test_a_damaged_report_or_plan_stops_no_run(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    run = make_run(outputs)
    folder = sweep_of(outputs, "study-1", [run])
    (folder / REPORT / "link").symlink_to("/etc/hostname")
    count, failures = sync(outputs, show=False)
    assert count == 1 and len(failures) == 1 and "symbolic link" in failures[0]
    (folder / PLAN).write_text("{")
    assert sync(outputs, show=False) == (1, [])
