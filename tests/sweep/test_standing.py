"""What `python -m gptx.sweep` says of a sweep, from folders and journals as sweeps leave them."""

import io
from pathlib import Path
from typing import Any

import pytest
from fake_runs import make_run, result, trained
from rich.console import Console

from gptx.compare import render
from gptx.runs.files import write_json
from gptx.runs.json_log import JsonLog
from gptx.runs.records import RunStatus, write_result
from gptx.sweep import __main__ as module
from gptx.sweep.__main__ import main
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.status import standings

STEPS = 20


def run(outputs: Path, at: int, end: str = "interrupted", bpb: float = 2.0) -> Path:
    """A run that stands at a step, or has finished there."""
    folder = make_run(outputs, steps=at, end=end, bpb=bpb)
    if end == "finished":
        write_result(folder / "result.json", result(bpb, status=RunStatus(end)))
    return folder


def cell(folder: Path, arm: str, words: tuple[str, ...] = (), seed: int = 0) -> dict[str, Any]:
    title = f"{arm} seed={seed}"
    return {"title": title, "arm": arm, "words": words, "run": f"study/{folder.name}", "refusal": "", "steps": STEPS}


def sweep(outputs: Path, cells: list[dict[str, Any]], *records: dict[str, Any], **plan: Any) -> Sweep:
    """One whose journal has these records."""
    found = Sweep(outputs, "it")
    found.path.mkdir(parents=True)
    write_json(
        found.path / "plan.json", {"command": "again", "kind": "grid", "launcher": "local", "cells": cells, **plan}
    )
    with JsonLog(found.path) as book:
        for record in records:
            book.write(**record)
    return found


def told(found: Sweep) -> list[tuple[str, str]]:
    return [(one.state, one.told) for one in standings(found)]


def rung(step: int, losses: dict[str, float | None], *kept: str, failed: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"kind": "rung", "step": step, "factor": 2, "losses": losses, "kept": kept, "failed": failed}


def end(folder: Path, reason: str = "") -> dict[str, Any]:
    return {"kind": "end", "title": "", "run": folder.name, "reason": reason, "again": False}


BEGIN = {"kind": "begin", "command": "again", "force": False}


def test_what_halving_has_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run(tmp_path, 5), run(tmp_path, 10), run(tmp_path, STEPS, "finished"), run(tmp_path, 5)]
    cells = [cell(folder, f"a{i}") for i, folder in enumerate(runs)]
    first = rung(5, {"a2": 1.0, "a1": 2.0, "a0": 3.0, "a3": 4.0}, "a1", "a2")
    records = BEGIN, rung(5, {"a0": 1.0, "a1": 2.0}, "a0"), first, rung(10, {"a2": 1.0, "a1": 2.0}, "a2")
    found = sweep(tmp_path, cells, *records, factor=2)
    assert told(found) == [
        ("left out", "dropped at step 5: place 3 of 4"),
        ("left out", "dropped at step 10: place 2 of 2"),
        ("finished", "val loss 1.3800"),
        ("left out", "dropped at step 5: place 4 of 4"),
    ]
    assert not any(one.open for one in standings(found))
    assert main(["status", "--outputs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "1 finished, 3 left out" in shown and "again" not in shown
    assert main(["collect", "--outputs", str(tmp_path)]) == 0
    assert "3 of 4 left out:" in capsys.readouterr().err
    write_json(found.path / "plan.json", found.plan | {"factor": 0})  # the same runs, without halving
    assert [state for state, _ in told(found)] == ["stopped", "stopped", "finished", "stopped"]


def test_a_failure_is_no_leaving_out_and_its_arm_is_tried_again(tmp_path: Path) -> None:
    runs = [run(tmp_path, 5), run(tmp_path, 4), run(tmp_path, 5)]
    cells = [cell(runs[0], "a0"), cell(runs[1], "a1", seed=0), cell(runs[2], "a1", seed=1)]
    decision = rung(5, {"a0": 1.0, "a1": None}, "a0", failed=("a1",))
    found = sweep(tmp_path, cells, BEGIN, end(runs[1], "out of memory"), decision, factor=2)
    assert told(found)[1:] == [
        ("failed", "out of memory"),
        ("left out", "dropped at step 5: a run of this arm failed"),
    ]
    with JsonLog(found.path) as book:
        book.write(**BEGIN)
    with trained(found.path):
        assert [state for state, _ in told(found)] == ["waiting"] * 3


def test_a_pruned_trial_is_told_as_such(tmp_path: Path) -> None:
    runs = [run(tmp_path, 10), run(tmp_path, 4), run(tmp_path, 3)]
    states = zip(runs, ("PRUNED", "FAIL"), strict=False)
    trials = [{"kind": "trial", "run": folder.name, "state": state} for folder, state in states]
    records = BEGIN, end(runs[0]), end(runs[1], "out of memory"), *trials, BEGIN
    found = sweep(tmp_path, [cell(folder, str(i)) for i, folder in enumerate(runs)], *records, kind="optuna")
    with trained(found.path):
        assert told(found) == [
            ("pruned", "at step 10 of 20, val loss 1.4800"),
            ("failed", "out of memory"),
            ("waiting", "at step 3 of 20"),
        ]


def test_a_failure_of_an_earlier_command_waits(tmp_path: Path) -> None:
    runs = [run(tmp_path, 4), run(tmp_path, 4, "failed"), run(tmp_path, 4), run(tmp_path, 4)]
    cells = [cell(folder, str(i)) for i, folder in enumerate(runs)]
    late = "over sweep.timeout"
    found = sweep(tmp_path, cells, BEGIN, *(end(folder, late) for folder in runs), BEGIN, end(runs[2], late))
    with trained(found.path):
        assert [state for state, _ in told(found)] == ["waiting", "waiting", "failed", "waiting"]
    assert [state for state, _ in told(found)] == ["stopped", "failed", "failed", "stopped"]


def test_collect_names_what_never_began(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(tmp_path, [cell(run(tmp_path, 4), "a"), cell(tmp_path / "study" / "never", "b")], BEGIN)
    assert main(["collect", "--outputs", str(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines()[1:] == [
        "2 of 2 did not finish:",
        "  a seed=0",
        "    stopped: at step 4 of 20; the same command goes on",
        "  b seed=0",
        "    not started",
    ]


def test_a_command_is_never_folded_into_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, out = " ".join(["python -m gptx.run -m", *(f"seed={n}" for n in range(60))]), io.StringIO()
    sweep(tmp_path, [], command=command)
    monkeypatch.setattr(module, "_console", lambda: Console(file=out, width=80, force_terminal=True, color_system=None))
    assert main(["list", "--outputs", str(tmp_path)]) == 0
    assert out.getvalue().endswith(f"\nit: {command}\n")


def test_collect_compares_the_best_rate_of_each_arm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[list[Path]] = []
    monkeypatch.setattr(render, "show", compared.append)
    one, two, three = (run(tmp_path, STEPS, "finished", bpb) for bpb in (2.0, 1.0, 1.5))
    tried = {
        "attention=mha": {1e-3: one, 3e-3: two},
        "attention=mqa": {1e-3: three, 3e-3: tmp_path / "study" / "never"},
    }
    cells = [
        cell(folder, f"{arm} optim.lr={rate!r}", (arm, f"optim.lr={rate!r}"))
        for arm, of in tried.items()
        for rate, folder in of.items()
    ]
    sweep(tmp_path, cells, BEGIN, lr=True)
    assert main(["collect", "--outputs", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "val loss by learning rate" in shown and "*0.6900" in shown and "*1.0350" in shown
    assert "! attention=mqa: the best rate is 0.001 of those rates of which all runs" in shown
    assert compared == [[two, three]]
