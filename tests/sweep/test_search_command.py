"""Searches by optuna from the command line, with real runs."""

import json
import shlex

import pytest
from command import DEADLINE, Gptx, once, records, until
from conftest import Maker
from in_process import sweep_arguments
from optuna.trial import FrozenTrial
from simulated_search import LR, stored_study

from gptx.runs import journal
from gptx.runs.tuning_runs import losing_runs
from gptx.sweep.state.folder import Sweep


def command(gptx: Gptx, *overrides: str) -> list[str]:
    """A search whose winner does not train again, unless the overrides say so."""
    return sweep_arguments(gptx, "hydra/sweeper=optuna", "sweep.jobs=2", "sweep.fresh_seeds=0", *overrides)


def stored(gptx: Gptx) -> list[FrozenTrial]:
    """The trials of the only search."""
    return stored_study(gptx.sweep_folder).get_trials()


def test_search_from_the_command_line(gptx: Gptx) -> None:
    overrides = command(gptx, "attention=mha,gqa", LR)
    dry = gptx.run("gptx.run", *overrides, "dry_run=true")
    assert dry.code == 0 and not gptx.outputs.exists(), dry.err
    assert (
        "search: 20 trials to minimize val_loss, sampled by tpe, in" in dry.out
        and "optim.lr: 0.0001 to 0.01, log scale" in dry.out
    )
    need, last = dry.out.splitlines()[-2:]
    assert need.startswith("a trial needs ") and " MB and takes " in need
    assert last.startswith("20 trials: 20 to run, 2 at once, about ") and last.endswith(
        " (estimated from a timed step)"
    )
    done = gptx.run("gptx.run", *once(*overrides, "hydra.sweeper.n_trials=2", "sweep.fresh_seeds=1"))
    assert done.code == 0, done.err
    assert "trials: 2 finished" in done.out and "[2/2] trial " in done.err
    final = [cell for cell in Sweep(gptx.outputs, gptx.sweep_folder.name).plan.cells if cell.is_final]
    assert [cell.overrides[-1] for cell in final] == ["seed=1000"] and "1 variant, 1 run " in done.out
    trials = [folder for folder in gptx.folders() if folder.name not in str(final[0].run)]
    assert losing_runs(gptx.folders()) == set(trials) and len(trials) == 2, "the winner is reported on its own seeds"
    assert [trial.state.name for trial in stored(gptx)] == ["COMPLETE"] * 2
    result = min(json.loads((folder / "result.json").read_text())["val_loss_select"] for folder in trials)
    assert f"val_loss {result:.6g}" in done.out and min(trial.values for trial in stored(gptx)) == [result]


def test_two_spellings_of_a_point_are_one_run(gptx: Gptx) -> None:
    """With four heads, mha and gqa with four key heads are the same model. Both trials are tried at once."""
    overrides = command(gptx, "attention=mha,gqa", "attention.n_kv_head=4", "hydra.sweeper.sampler=random")
    done = gptx.run("gptx.run", *overrides, "hydra.sweeper.n_trials=4")
    assert done.code == 0, done.err
    assert {trial.params["attention"] for trial in stored(gptx)} == {"mha", "gqa"}
    assert [trial.state.name for trial in stored(gptx)] == ["COMPLETE"] * 4
    assert len({trial.value for trial in stored(gptx)}) == len(gptx.folders()) == 1


@pytest.mark.full
def test_search_killed_with_its_runs_resumes(gptx: Gptx) -> None:
    overrides = command(gptx, "attention=mha,gqa", LR, "kernel=fragile")
    pause = {"PAUSE_AT": "15", "PAUSE_IN": str(gptx.cwd)}
    killed = gptx.popen("gptx.run", *overrides, "hydra.sweeper.n_trials=2", **pause)
    started = lambda: [folder for folder in gptx.folders() if records(folder, "start")]  # noqa: E731
    assert until(lambda: len(started()) == 2 and (gptx.cwd / "paused-0").exists(), killed)
    killed.kill()
    (gptx.cwd / "go").touch()
    killed.communicate(timeout=DEADLINE)
    assert gptx.orphans() == []
    before = [trial.params for trial in stored(gptx)]
    assert [trial.state.name for trial in stored(gptx)] == ["RUNNING"] * 2
    uids = {folder.name: records(folder, "start")[0]["uid"] for folder in gptx.folders()}
    done = gptx.run("gptx.run", *overrides, "hydra.sweeper.n_trials=3")
    assert done.code == 0, done.err
    assert "3 finished" in done.out and "[3/3] trial " in done.err
    assert [trial.state.name for trial in stored(gptx)] == ["COMPLETE"] * 3
    assert [trial.params for trial in stored(gptx)[:2]] == before
    assert len(gptx.folders()) == 3
    assert uids.items() <= {folder.name: records(folder, "start")[0]["uid"] for folder in gptx.folders()}.items()
    lines = done.out.splitlines()
    best = shlex.split(lines[lines.index("best trial on the selection half:") + 2])
    assert best[:3] == ["python", "-m", "gptx.run"]
    single = gptx.run("gptx.run", *best[3:])
    assert single.code == 0 and "finished already" in single.out, single.err
    result = min(json.loads((folder / "result.json").read_text())["val_loss_select"] for folder in gptx.folders())
    assert f"val_loss {result:.6g}" in done.out and min(trial.values for trial in stored(gptx)) == [result]


def test_wrong_search_option_is_reported_in_one_line(gptx: Gptx) -> None:
    done = gptx.run("gptx.run", *command(gptx, "attention=mha,gqa", "hydra.sweeper.n_trial=3"))
    assert done.code == 2
    assert done.err.count("\n") == 1 and "Did you mean 'hydra.sweeper.n_trials'?" in done.err, done.err
    assert not gptx.outputs.exists()


@pytest.mark.full
def test_real_runs_are_pruned(make: Maker) -> None:
    """Runs with rates that are too small are pruned; their checkpoints remain."""
    gptx = make("pruned")
    overrides = ["optim.lr=tag(log,interval(1e-7,1e-2))", "hydra.sweeper.n_trials=5", "hydra.sweeper.pruner=median"]
    pace = ["hydra.sweeper.startup=1", "hydra.sweeper.sampler=random", "trainer.max_steps=400", "kernel=fragile"]
    done = gptx.run("gptx.run", *command(gptx, *overrides, *pace, "sweep.jobs=1"), SLOW="0.005")
    assert done.code == 0, done.err
    states = {trial.user_attrs["run"]: trial.state.name for trial in stored(gptx)}
    assert set(states.values()) == {"COMPLETE", "PRUNED"}
    for run, state in states.items():
        assert journal.status(gptx.outputs / run) == ("interrupted" if state == "PRUNED" else "finished")
        assert (gptx.outputs / run / "checkpoints").is_dir()
    assert ": pruned at step " in done.err and " pruned" in done.out
