"""Searches by optuna with simulated training: no trial is lost or trained twice after a kill; worse runs are pruned."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command import records
from omegaconf import OmegaConf
from simulated_search import EVERY, KEYS, LR, STEPS, Killed, Search, SimulatedLauncher, loss_of, space

from gptx.errors import Interrupted
from gptx.runs import journal
from gptx.sweep.plan.cells import Cell
from gptx.sweep.search import trial_source as module
from gptx.sweep.search.optuna_study import OVERRIDES, STORE, importances
from gptx.sweep.search.search_report import show_estimate, show_search
from gptx.sweep.state.folder import Sweep

GB = 10**9


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    return Search(tmp_path, monkeypatch)


def test_trials_run_in_all_slots(search: Search) -> None:
    launcher = SimulatedLauncher(loss_of, slots=3)
    search(launcher)
    assert launcher.most == 3
    assert search.states() == ["COMPLETE"] * 12
    assert len(launcher.started) == len(set(launcher.started)) == len(search.followed)
    assert [cell.run for cell in search.sweep.plan.cells] == [f"study/{name}" for name in launcher.started]
    best = search.study.best_trial
    assert best.value == min(loss_of(dict(w.split("=") for w in t.user_attrs[OVERRIDES]), STEPS) for t in search.trials)
    assert (
        best.value
        == json.loads((search.sweep.outputs / best.user_attrs["run"] / "result.json").read_text())["val_loss_select"]
    )
    assert [record["number"] for record in records(search.sweep.path, "trial")] != []
    assert set(importances(search.study)) == {"attention", "optim.lr"}


@pytest.mark.parametrize(("local", "most"), [(True, 2), (False, 3)])
def test_memory_limits_trials_at_once(search: Search, monkeypatch: pytest.MonkeyPatch, local: bool, most: int) -> None:
    """A point waits until it fits beside the running ones; for another machine the memory is not known."""

    def estimated(cells: list[Cell], jobs: int, _: bool, rooms: dict[str, int]) -> None:
        rooms |= {"cpu": 10 * GB} if local else {}
        cells[0].memory_bytes = 4 * GB

    monkeypatch.setattr(module, "check_memory", estimated)
    launcher = SimulatedLauncher(loss_of, slots=3)
    search(launcher)
    assert launcher.most == most
    assert search.states() == ["COMPLETE"] * 12


def test_earlier_trials_and_searches_are_shown(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    launcher, where = SimulatedLauncher(loss_of), space("attention=mha,gqa", LR)
    search(launcher, replace(KEYS, n_trials=3))
    launcher.sweep = search.sweep
    show_estimate(3, [], launcher, OmegaConf.create())
    assert capsys.readouterr().out == "3 trials: 3 finished\n"
    show_search(KEYS, where, Sweep(search.sweep.outputs, "study-1"), "study")
    new = "this search is new, because its space or its metrics differ; study=study also has study-0"
    assert capsys.readouterr().out.splitlines()[-1] == new
    show_search(KEYS, where, search.sweep, "study")
    assert "this search is new" not in capsys.readouterr().out


def test_more_trials_extend_a_search(search: Search) -> None:
    first, second, third = SimulatedLauncher(loss_of), SimulatedLauncher(loss_of), SimulatedLauncher(loss_of)
    search(first, replace(KEYS, n_trials=5))
    search(second, replace(KEYS, n_trials=8))
    search(third, replace(KEYS, n_trials=8))
    assert (len(first.started), len(second.started), len(third.started)) == (5, 3, 0)
    assert len({*first.started, *second.started}) == 8


# Kills and interruptions


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
@pytest.mark.parametrize("slots", [1, 3])
def test_killed_search_tries_the_same_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, slots: int
) -> None:
    """Killed after every third wait. With one slot, or the random sampler, exactly the same values are tried."""
    keys = replace(KEYS, sampler=sampler)
    undisturbed = Search(tmp_path / "undisturbed", monkeypatch)
    undisturbed(SimulatedLauncher(loss_of, slots), keys)
    killed = Search(tmp_path / "killed", monkeypatch)
    for _ in range(100):
        launcher = SimulatedLauncher(loss_of, slots, kill_at=4)
        try:
            killed(launcher, keys)
            break
        except Killed:
            running = {trial.user_attrs["run"] for trial in killed.trials if trial.state.name == "RUNNING"}
            assert running == {f"study/{task.folder.name}" for task in launcher.tasks}
            with open(killed.sweep.path / STORE, "ab") as store:
                store.write(b'{"op_code": 5, "wor')  # the line that was being written
            (killed.sweep.path / f"{STORE}.lock").unlink(missing_ok=True)
            (killed.sweep.path / f"{STORE}.lock").symlink_to(STORE)  # the lock file that optuna leaves after a kill
    assert killed.states() == ["COMPLETE"] * 12
    if slots == 1 or sampler == "random":
        assert [t.user_attrs[OVERRIDES] for t in killed.trials] == [t.user_attrs[OVERRIDES] for t in undisturbed.trials]
    for folder in {trial.user_attrs["run"] for trial in killed.trials}:
        steps = [record["step"] for record in records(killed.sweep.outputs / folder, "metrics")]
        assert steps == list(range(EVERY, STEPS + 1, EVERY))  # each was resumed, and none restarted


def test_store_truncated_at_any_line_is_completed(search: Search) -> None:
    """Killed between any two lines: a trial lacks values, or its end or rejection was not stored yet."""
    keys, where = replace(KEYS, n_trials=3, sampler="random"), space("attention=mha,never", LR)
    search(SimulatedLauncher(loss_of), keys, where)
    store = search.sweep.path / STORE
    lines = store.read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        store.write_bytes(b"".join(lines[:cut]))
        before, launcher = search.trials, SimulatedLauncher(loss_of)
        search(launcher, keys, where)
        assert len(launcher.started) <= 1  # at most the trial whose values were truncated
        assert all(old.params.items() <= new.params.items() for old, new in zip(before, search.trials, strict=False))
        assert search.states().count("COMPLETE") == 3
        assert set(search.states()) <= {"COMPLETE", "PRUNED"}


def test_interrupted_search_resumes_its_trials(search: Search) -> None:
    launcher = SimulatedLauncher(loss_of, slots=2, signal_at=6)
    with pytest.raises(Interrupted):
        search(launcher)
    started = dict(zip(launcher.started, search.states(), strict=True))
    assert list(started.values()) == ["COMPLETE"] * (len(started) - 2) + ["RUNNING"] * 2
    resumed = SimulatedLauncher(loss_of, slots=2)
    search(resumed)
    assert resumed.started[:2] == launcher.started[-2:]
    assert search.states() == ["COMPLETE"] * 12


# Repeated, failed and rejected points


def test_same_point_is_trained_once(search: Search) -> None:
    """The sampler proposes the point again while it runs, and after it has ended."""
    launcher = SimulatedLauncher(loss_of, slots=4)
    search(launcher, where=space("attention=mha,gqa"))
    assert sorted(launcher.started) == ["attention=gqa", "attention=mha"]
    assert search.states() == ["COMPLETE"] * 12
    assert {trial.value for trial in search.trials} == {loss_of({"attention": a}, STEPS) for a in ("mha", "gqa")}


def test_failed_trials_have_a_reason(search: Search) -> None:
    search(SimulatedLauncher(loss_of, slots=2), where=space("attention=mha,broken", LR))
    failed = [trial for trial in search.trials if trial.state.name == "FAIL"]
    assert len(search.trials) == 12 and 0 < len(failed) < 12
    assert {trial.params["attention"] for trial in failed} == {"broken"}
    assert {trial.user_attrs["reason"] for trial in failed} == {"the kernel broke"}


def test_result_without_the_metric_is_a_failure(search: Search) -> None:
    search(SimulatedLauncher(lambda values, step: float("nan")), replace(KEYS, n_trials=2))
    assert search.states() == ["FAIL"] * 2
    assert search.trials[0].user_attrs["reason"] == "its result has no finite val_loss"


@pytest.mark.parametrize("option", ["never", "typo"])
def test_rejected_points_do_not_count_and_are_avoided(search: Search, option: str) -> None:
    search(SimulatedLauncher(loss_of, slots=2), where=space(f"attention=mha,{option}", LR))
    counted = [trial for trial in search.trials if "refused" not in trial.user_attrs]
    assert [trial.state.name for trial in counted] == ["COMPLETE"] * 12
    assert {trial.params["attention"] for trial in counted} == {"mha"}
    output = records(search.sweep.path, "refused")
    assert len(output) == len(search.trials) - 12 > 0
    assert all(len(record["reason"]) > 5 and record["title"].startswith("trial ") for record in output)


def test_search_of_rejected_points_is_abandoned(search: Search) -> None:
    launcher = SimulatedLauncher(loss_of, slots=2)
    source = search(launcher, where=space("attention=never,typo", LR))
    assert "25 points in a row were rejected, the last one because" in source.abandoned
    assert launcher.started == []


# Pruning and several metrics


@pytest.mark.parametrize(("by", "metric"), [("median", "val_loss"), ("asha", "val_loss"), ("median", "val_accuracy")])
def test_worse_trials_are_pruned(search: Search, by: str, metric: str) -> None:
    keys = replace(KEYS, pruner=by, metrics=(metric,), sampler="random", n_trials=20)
    launcher = SimulatedLauncher(loss_of, slots=2)
    search(launcher, keys)
    assert len(launcher.started) == 20
    trials = search.trials
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert 3 <= len(pruned) <= 17 and len(launcher.stopped) == len(pruned)
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    for trial in pruned:
        assert trial.last_step is not None and trial.last_step < STEPS
        assert journal.status(search.sweep.outputs / trial.user_attrs["run"]) == "interrupted"
    best = max if metric == "val_accuracy" else min
    assert search.study.best_value == best(
        t.value for t in trials if t.state.name == "COMPLETE" and t.value is not None
    )
    assert {record["reason"] for record in records(search.sweep.path, "end")} == {""}


def test_no_trial_is_pruned_before_the_warmup(search: Search) -> None:
    search(
        SimulatedLauncher(loss_of, slots=2),
        replace(KEYS, pruner="median", warmup=2 * EVERY, sampler="random", n_trials=20),
    )
    pruned = [trial for trial in search.trials if trial.state.name == "PRUNED"]
    assert pruned and all(trial.last_step is not None and trial.last_step >= 2 * EVERY for trial in pruned)


def test_resumed_run_is_not_pruned_by_old_validations(search: Search) -> None:
    """The pruner knows the validations from before the kill; only a new one can stop the run."""
    keys = replace(KEYS, pruner="median", startup=1, n_trials=3)
    search(SimulatedLauncher(loss_of), replace(keys, n_trials=2))
    worse = SimulatedLauncher(lambda values, step: 100.0, kill_at=2)
    with pytest.raises(Killed):
        search(worse, keys)
    again = SimulatedLauncher(lambda values, step: 100.0)
    search(again, keys)
    assert again.started == worse.started
    assert again.waits >= 2  # at least one wait to train a step, and one to stop
    assert search.states()[-1] == "PRUNED"


def test_pareto_front_of_two_metrics(search: Search) -> None:
    def smaller_is_worse(values: dict[str, str], step: int) -> float:  # the smaller model has the higher loss
        return float(values["optim.lr"]) + (values["attention"] == "gqa")

    search(SimulatedLauncher(smaller_is_worse, slots=2), replace(KEYS, metrics=("val_loss", "n_params")))
    front = search.study.best_trials
    assert {trial.params["attention"] for trial in front} == {"mha", "gqa"}
    assert len(front) == 2
    assert search.states() == ["COMPLETE"] * 12


def test_optuna_prints_nothing(search: Search, capfd: pytest.CaptureFixture[str]) -> None:
    search(SimulatedLauncher(loss_of), replace(KEYS, n_trials=6, pruner="asha"))
    output = capfd.readouterr()
    assert "[I " not in output.err and "Warning" not in output.err + output.out
    assert all(line.startswith(("[", "trial ")) for line in output.err.splitlines())
