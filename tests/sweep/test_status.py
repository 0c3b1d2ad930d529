"""`gptx sweep list`, `status` and `collect`, from run folders and journals as sweeps leave them."""

import io
import json
from pathlib import Path

import pytest
from fake_runs import make_run, result, trained
from rich.console import Console

from gptx.runs.provenance import outputs_option
from gptx.runs.records import RunStatus, write_result
from gptx.sweep.__main__ import main
from gptx.sweep.commands import status_table
from gptx.sweep.commands.status import status_rows
from gptx.sweep.end_report import list_reasons
from gptx.sweep.state.folder import PlannedCell, Sweep, SweepKind, SweepPlan, find_sweep
from gptx.sweep.state.records import AttemptOutcome, CommandStarted, RunEnded, Rung, SweepRecord, TrialEnded

STEPS = 20
STARTED = CommandStarted(command="again")


def fake_run(outputs: Path, step: int, end: str = "interrupted", bpb: float = 2.0) -> Path:
    """A run that ended at a step."""
    folder = make_run(outputs, steps=step, end=end, bpb=bpb)
    if end == "finished":
        write_result(folder / "result.json", result(bpb, status=RunStatus(end)))
    return folder


def planned(folder: Path, arm: str, overrides: tuple[str, ...] = (), seed: int = 0) -> PlannedCell:
    title, run = f"{arm} seed={seed}", f"study/{folder.name}"
    return PlannedCell(title=title, arm=arm, overrides=overrides, run=run, steps=STEPS)


def fake_sweep(
    outputs: Path,
    cells: list[PlannedCell],
    *records: SweepRecord,
    kind: SweepKind = SweepKind.GRID,
    factor: int = 0,
    lr: bool = False,
    command: str = "again",
) -> Sweep:
    """A sweep whose journal has these records."""
    sweep = Sweep(outputs, "it")
    sweep.path.mkdir(parents=True)
    sweep.save_plan(SweepPlan(command=command, kind=kind, factor=factor, lr=lr, cells=tuple(cells)))
    with sweep.journal() as journal:
        for record in records:
            journal.write(record)
    return sweep


def shown(sweep: Sweep) -> list[tuple[str, str]]:
    return [(row.status, row.detail) for row in status_rows(sweep)]


def statuses(sweep: Sweep) -> list[str]:
    return [row.status for row in status_rows(sweep)]


def rung(step: int, losses: dict[str, float | None], *promoted: str, failed: tuple[str, ...] = ()) -> Rung:
    return Rung(step=step, factor=2, losses=losses, promoted=promoted, failed=failed)


def ended(folder: Path, outcome: AttemptOutcome = AttemptOutcome.PAUSED, reason: str = "") -> RunEnded:
    return RunEnded(title="", run=folder.name, outcome=outcome, reason=reason)


def test_runs_dropped_by_halving(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [fake_run(tmp_path, 5), fake_run(tmp_path, 10), fake_run(tmp_path, STEPS, "finished"), fake_run(tmp_path, 5)]
    cells = [planned(folder, f"a{i}") for i, folder in enumerate(runs)]
    first = rung(5, {"a2": 1.0, "a1": 2.0, "a0": 3.0, "a3": 4.0}, "a1", "a2")
    records = STARTED, rung(5, {"a0": 1.0, "a1": 2.0}, "a0"), first, rung(10, {"a2": 1.0, "a1": 2.0}, "a2")
    sweep = fake_sweep(tmp_path, cells, *records, factor=2)
    assert shown(sweep) == [
        ("dropped", "dropped at step 5: place 3 of 4"),
        ("dropped", "dropped at step 10: place 2 of 2"),
        ("finished", "val loss 1.3800"),
        ("dropped", "dropped at step 5: place 4 of 4"),
    ]
    assert not any(row.active for row in status_rows(sweep))
    assert main(["status", "--outputs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "1 finished, 3 dropped" in output and "again" not in output
    assert main(["collect", "--outputs", str(tmp_path)]) == 0
    assert "gptx: 3 of 4 dropped:" in capsys.readouterr().err
    sweep.save_plan(SweepPlan(cells=tuple(cells)))  # a command for the same runs without halving
    assert statuses(sweep) == ["stopped", "stopped", "finished", "stopped"]


def test_failed_run_of_a_halving_waits_for_the_next_command(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path, 5), fake_run(tmp_path, 4), fake_run(tmp_path, 5)]
    cells = [planned(runs[0], "a0"), planned(runs[1], "a1", seed=0), planned(runs[2], "a1", seed=1)]
    decision = rung(5, {"a0": 1.0, "a1": None}, "a0", failed=("a1",))
    failure = ended(runs[1], AttemptOutcome.FAILED, "out of memory")
    sweep = fake_sweep(tmp_path, cells, STARTED, failure, decision, factor=2)
    assert shown(sweep)[1:] == [("failed", "out of memory"), ("dropped", "dropped at step 5: a run of this arm failed")]
    with sweep.journal() as journal:
        journal.write(STARTED)
    with trained(sweep.path):
        assert statuses(sweep) == ["waiting"] * 3


def test_pruned_and_failed_trials_of_a_search(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path, 10), fake_run(tmp_path, 4), fake_run(tmp_path, 3)]
    trials = [TrialEnded(run=run.name, state=state) for run, state in zip(runs, ("PRUNED", "FAIL"), strict=False)]
    records = STARTED, ended(runs[0]), ended(runs[1], AttemptOutcome.FAILED, "out of memory"), *trials, STARTED
    cells = [planned(folder, str(i)) for i, folder in enumerate(runs)]
    sweep = fake_sweep(tmp_path, cells, *records, kind=SweepKind.OPTUNA)
    with trained(sweep.path):
        assert shown(sweep) == [
            ("pruned", "at step 10 of 20, val loss 1.4800"),
            ("failed", "out of memory"),
            ("waiting", "at step 3 of 20"),
        ]


def test_failures_of_an_earlier_command_are_tried_again(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path, 4), fake_run(tmp_path, 4, "failed"), fake_run(tmp_path, 4), fake_run(tmp_path, 4)]
    cells = [planned(folder, str(i)) for i, folder in enumerate(runs)]
    late = [ended(folder, AttemptOutcome.LIMIT_EXCEEDED, "over sweep.timeout") for folder in runs]
    sweep = fake_sweep(tmp_path, cells, STARTED, *late, STARTED, late[2])
    with trained(sweep.path):
        assert statuses(sweep) == ["waiting", "waiting", "failed", "waiting"]
    assert statuses(sweep) == ["stopped", "failed", "failed", "stopped"]


def test_run_stopped_with_its_sweep_has_not_failed(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path, 4), fake_run(tmp_path, 4)]
    never = tmp_path / "study" / "never"  # stopped before it had written its first record
    stopped = (
        ended(runs[0], AttemptOutcome.STOPPED, "checkpoint at step 4"),
        ended(never, AttemptOutcome.STOPPED, "no checkpoint yet"),
    )
    limited = ended(runs[1], AttemptOutcome.LIMIT_EXCEEDED, "took longer than sweep.timeout=1 minutes")
    cells = [planned(runs[0], "a"), planned(runs[1], "b"), planned(never, "c")]
    sweep = fake_sweep(tmp_path, cells, STARTED, *stopped, limited)
    assert shown(sweep) == [
        ("stopped", "at step 4 of 20"),
        ("failed", "took longer than sweep.timeout=1 minutes"),
        ("not started", ""),
    ]


def test_sweep_of_an_older_version(tmp_path: Path) -> None:
    """Its plan has other keys, and its journal records messages only."""
    runs = [fake_run(tmp_path, 4), fake_run(tmp_path, 4), fake_run(tmp_path, STEPS, "finished")]
    sweep = fake_sweep(tmp_path, [])
    cell = {"arm": "a", "words": ["seed=0"], "note": "", "processes": 1, "steps": STEPS}
    cells = [cell | {"title": f"seed={i}", "run": f"study/{run.name}", "refusal": ""} for i, run in enumerate(runs)] + [
        cell | {"title": "bad", "run": None, "refusal": "a wrong key"}
    ]
    plan = {"study": "s", "command": "again", "kind": "grid", "launcher": "local", "lr": False, "factor": 0}
    (sweep.path / "plan.json").write_text(json.dumps(plan | {"cells": cells}))
    reasons = "stopped (it goes on from step 4)", "out of memory", ""
    ends = [
        {"t": 1, "kind": "end", "title": "", "run": run.name, "reason": why, "again": False}
        for run, why in zip(runs, reasons, strict=True)
    ]
    lines = [{"t": 0, "kind": "begin", "command": "again", "force": False}, *ends, {"t": 2, "kind": "unknown"}]
    (sweep.path / "journal.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert sweep.plan.cells[0].overrides == ("seed=0",)
    assert shown(sweep) == [
        ("stopped", "at step 4 of 20"),
        ("failed", "out of memory"),
        ("finished", "val loss 1.3800"),
        ("rejected", "a wrong key"),
    ]


def test_collect_lists_runs_that_did_not_finish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_sweep(tmp_path, [planned(fake_run(tmp_path, 4), "a"), planned(tmp_path / "study" / "never", "b")], STARTED)
    assert main(["collect", "--outputs", str(tmp_path)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        *("", "gptx: 1 of 2 not started:", "  b seed=0"),
        *("", "gptx: 1 of 2 stopped:", "  a seed=0", "    at step 4 of 20"),
        "run the rest: again",
    ]


def test_suggested_commands_name_the_outputs_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / "my runs"
    sweep = fake_sweep(outputs, [planned(fake_run(outputs, STEPS, "finished"), "a")], STARTED)
    assert main(["status", "--outputs", str(outputs)]) == 0
    assert capsys.readouterr().out.endswith(f": gptx sweep collect {sweep.name} --outputs '{outputs}'\n")
    assert outputs_option(Path("outputs")) == ""


def test_lists_have_one_look(capsys: pytest.CaptureFixture[str]) -> None:
    list_reasons("failed", {f"seed={n}": "out of memory" if n else "loss is nan" for n in range(13)}, 20)
    titles = [f"  seed={n}" for n in range(1, 11)]
    expected = [
        "",
        "gptx: 13 of 20 failed:",
        "  seed=0",
        "    loss is nan",
        *titles,
        "  and 2 more",
        "    out of memory",
    ]
    assert capsys.readouterr().err.splitlines() == expected


def test_list_never_folds_a_command_into_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, out = " ".join(["python -m gptx.run -m", *(f"seed={n}" for n in range(60))]), io.StringIO()
    fake_sweep(tmp_path, [], command=command)
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(status_table, "console_without_folding", lambda: console)
    assert main(["list", "--outputs", str(tmp_path)]) == 0
    assert out.getvalue().endswith(f"\nit: {command}\n")


def test_piped_list_has_one_line_for_each_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_sweep(
        tmp_path, [planned(fake_run(tmp_path, STEPS, "finished"), "a")], command="python -m gptx.run -m " + "x" * 300
    )
    assert main(["list", "--outputs", str(tmp_path)]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["sweep", "kind", "launcher", "runs", "finished", "command"]
    assert row.split()[:5] == ["it", "grid", "local", "1", "1"] and row.endswith("x" * 300)


def test_collect_compares_the_best_learning_rate_of_each_arm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[list[Path]] = []
    monkeypatch.setattr(
        "gptx.sweep.commands.collect.show_comparison",
        lambda sweep, found: compared.append(found.runs),
    )
    one, two, three = (fake_run(tmp_path, STEPS, "finished", bpb) for bpb in (2.0, 1.0, 1.5))
    tried = {
        "attention=mha": {1e-3: one, 3e-3: two},
        "attention=mqa": {1e-3: three, 3e-3: tmp_path / "study" / "never"},
    }
    cells = [
        planned(folder, f"{arm} optim.lr={rate!r}", (arm, f"optim.lr={rate!r}"))
        for arm, rates in tried.items()
        for rate, folder in rates.items()
    ]
    fake_sweep(tmp_path, cells, STARTED, lr=True)
    assert main(["collect", "--outputs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "(* best)" in output and "*0.6900" in output and "*1.0350" in output
    assert "! attention=mqa: " in output
    assert compared == [[two, three]]


def test_unknown_sweep_or_action_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--outputs", str(tmp_path)]
    assert main(["status", *at]) == 2
    assert f"no sweep in {tmp_path}; `gptx sweep seed=0,1` starts one" in capsys.readouterr().err
    sweep = fake_sweep(tmp_path, [])
    assert main(["status", "itt", *at]) == 2
    assert "Did you mean it?" in capsys.readouterr().err
    assert main(["stauts", *at]) == 2
    assert "invalid choice: 'stauts'" in capsys.readouterr().err
    assert find_sweep(tmp_path, str(sweep.path)).path == find_sweep(tmp_path, "").path == sweep.path
