"""Searches by optuna: no trial is lost by a kill or trained twice, and worse runs are pruned."""

import json
import os
import shlex
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import optuna
import pytest
from command import DEADLINE, OWN_CONF, Gptx, once, records, until
from conftest import Maker
from fake_cells import FACTS
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from gptx.config.compose import compose
from gptx.errors import ConfigError, Interrupted
from gptx.runs import journal
from gptx.runs.files import write_json
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.records import EndRecord, MetricsRecord, RunStatus
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import End, Launcher, Task
from gptx.sweep.execute.loop import drive
from gptx.sweep.plan.cells import Cell, compose_cells
from gptx.sweep.search import trials as module
from gptx.sweep.search.optuna_study import OVERRIDES, STORE, SearchOptions, importances, open_study, pruner_of
from gptx.sweep.search.search_report import show_estimate, show_search
from gptx.sweep.search.space import Space
from gptx.sweep.search.sweeper import check_options
from gptx.sweep.search.trials import SearchContext, TrialSource
from gptx.sweep.state.folder import Sweep, SweepKind, SweepPlan
from gptx.sweep.state.records import AttemptOutcome

STEPS, EVERY = 40, 10
GB = 10**9
KEYS = SearchOptions(12, ("val_loss",), "tpe", 4, 0, "none", 0)
LR = "optim.lr=tag(log,interval(1e-4,1e-2))"

# ------------------------------------------------------------------------------------------------- the space


def space(*overrides: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("override", "shown", "examples"),
    [
        ("attention=mha,gqa", "mha, gqa", ["mha", "gqa"]),
        ("attention=choice(mha,gqa,mha)", "mha, gqa", ["mha", "gqa"]),
        ("seed=0,1", "0, 1", ["0", "1"]),
        ("a.b=[1,2],[3]", "[1,2], [3]", ["[1,2]", "[3]"]),
        (LR, "0.0001 to 0.01, log scale", ["0.0001", "0.003367", "0.01"]),
        ("x=interval(0,3)", "0 to 3", ["0.0", "1", "3.0"]),
        ("x=int(interval(1,8))", "1 to 8", ["1", "8"]),
        ("x=tag(log,int(interval(1,8)))", "1 to 8, log scale", ["1", "8"]),
        ("x=range(1,9,2)", "1 to 7, in steps of 2", ["1", "7"]),
        ("x=range(9,1,-2)", "3 to 9, in steps of 2", ["3", "9"]),
        ("x=range(0.5,2.1,0.5)", "0.5 to 2, in steps of 0.5", ["0.5", "2.0"]),
    ],
)
def test_space_is_read_from_the_command_line(override: str, shown: str, examples: list[str]) -> None:
    found = space("pos=rope", override)
    key = override.partition("=")[0]
    assert found.fixed == ["pos=rope"]
    assert str(found) == f"  {key}: {shown}"
    assert [point[1] for point in found.examples()] == [f"{key}={example}" for example in examples]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    [axis] = found.dimensions
    tried = {axis.suggest(study.ask()) for _ in range(20)}
    assert all(len(space(one, "y=1,2").fixed) == 1 for one in tried)  # each has one value
    assert len(tried) > 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["attention=mha", "seed=0"], "nothing to search: expected at least one key with several values, e.g."),
        (["x=interval(2,1)"], "x=interval(2,1): expected a smaller number, then a larger one"),
        (["x=tag(log,interval(0,1))"], "then a larger one, both above 0"),
        (["x=tag(ln,interval(1,2))"], "a search supports only the tag log"),
        (["x=tag(log,choice(1,2))"], "a search supports only the tag log of intervals"),
        (["x=shuffle(1,2)"], "no order to shuffle"),
        (["x=range(3,3)"], "has no values"),
    ],
)
def test_overrides_that_cannot_be_searched(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        space(*overrides)
    assert expected in str(rejected.value) and "\n" not in str(rejected.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials=0: expected at least 1"),
        ({"sampler": "nsga2", "startup": 1}, "hydra.sweeper.startup=1: expected at least 2"),
        ({"metrics": ("val_los",)}, "Did you mean 'val_loss'?"),
        ({"metrics": ()}, "expected at least one, and none twice"),
        ({"metrics": ("val_loss", "val_loss")}, "expected at least one, and none twice"),
        ({"sampler": "grid"}, "hydra.sweeper.sampler=grid: expected one of tpe, nsga2, random"),
        ({"pruner": "hyperband"}, "expected one of none, median, asha"),
        ({"warmup": 5}, "hydra.sweeper.warmup=5 needs a pruner"),
        ({"pruner": "median", "metrics": ("val_loss", "n_params")}, "metrics=[val_loss]"),
        ({"pruner": "asha", "metrics": ("n_params",)}, "or pruner=none"),
    ],
)
def test_wrong_search_options(keys: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        replace(KEYS, **keys).check()  # type: ignore[arg-type]
    assert expected in str(rejected.value) and "\n" not in str(rejected.value)


# ------------------------------------------------------------------------------------- with simulated training


class Killed(BaseException):
    """Simulates SIGKILL: no handler runs."""


Curve = Callable[[dict[str, str], int], float]


class SimulatedLauncher(Launcher):
    """Runs with the losses of a curve, which train EVERY of their STEPS steps in each `wait`."""

    def __init__(self, curve: Curve, slots: int = 1, kill_at: int = -1, signal_at: int = -1) -> None:
        self.curve, self.slots, self.kill_at, self.signal_at = curve, slots, kill_at, signal_at
        self.started: list[str] = []
        self.most, self.waits = 0, 0
        self.stopped: set[Task] = set()
        self.tasks: list[Task] = []

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def submit(self, tasks: Sequence[Task]) -> None:
        self.started += [task.folder.name for task in tasks]
        self.tasks += tasks
        self.most = max(self.most, len(self.tasks))
        assert len(self.tasks) <= self.slots

    def wait(self) -> list[End]:
        self.waits += 1
        if self.waits == self.kill_at:
            raise Killed
        if self.waits == self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        ends = [end for task in self.tasks if (end := self._advance(task))]
        self.tasks = [task for task in self.tasks if task not in {end.task for end in ends}]
        return ends

    def _advance(self, task: Task) -> End | None:
        values = dict(override.split("=", 1) for override in task.overrides)
        if values.get("attention") == "broken":
            return End(task, AttemptOutcome.FAILED, "the kernel broke")
        with Journal(task.folder) as log:
            if task in self.stopped:
                log.write(EndRecord(status=RunStatus.INTERRUPTED))
                return End(task, AttemptOutcome.STOPPED, "stopped")
            step = max(0, log.last_step) + EVERY
            loss = self.curve(values, step)
            log.write(MetricsRecord(step=step, values={"val/loss": loss, "val/accuracy": -loss}))
        if step < STEPS:
            return None
        result = {"status": "finished", "val_loss": loss, "val_accuracy": -loss, "val_bpb": 2 * loss}
        write_json(task.folder / "result.json", result | {"n_params": 4 if values["attention"] == "mha" else 2})
        return End(task, AttemptOutcome.FINISHED)

    def stop(self, tasks: Collection[Task]) -> None:
        self.stopped.update(tasks)

    def running(self) -> list[Task]:
        return self.tasks


def loss_of(values: dict[str, str], step: int) -> float:
    return abs(float(values.get("optim.lr", "0.001")) - 0.003) * 100 + (values["attention"] == "gqa") + 1 / step


class Search:
    """A search in a folder; every call is a new command."""

    def __init__(self, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sweep = Sweep(outputs, "study-0")
        monkeypatch.setattr(module, "compose_cells", lambda combinations: [self.cell(*combinations)])
        monkeypatch.setattr(module, "check_cells", lambda cells, there: None)
        monkeypatch.setattr(module, "check_memory", lambda cells, jobs, here, rooms: None)
        self.followed: list[Path] = []

    def cell(self, overrides: list[str]) -> Cell:
        if "attention=typo" in overrides:
            raise ConfigError("unknown option attention=typo")
        folder = self.sweep.outputs / "study" / " ".join(overrides)
        folder.mkdir(parents=True, exist_ok=True)
        known = {"study": "study", "force": False, "trainer": {"max_steps": STEPS}, "strategy": {}}
        cfg = OmegaConf.create(known)
        rejection = "it cannot be" if "attention=never" in overrides else ""
        return Cell(overrides, "", "", cfg, RunFolder(folder), rejection, FACTS)

    def __call__(
        self, launcher: SimulatedLauncher, keys: SearchOptions = KEYS, where: Space | None = None
    ) -> TrialSource:
        plan = SweepPlan(study="study", kind=SweepKind.OPTUNA, cells=self.sweep.plan.cells)
        with self.sweep.work(plan) as log:
            study = open_study(self.sweep.path, keys, pruner_of(keys, EVERY))
            dashboard = Dashboard(keys.n_trials, 0, {}, 0.0)
            where = where or space("attention=mha,gqa", LR)
            context = SearchContext(keys, where, (), launcher, self.sweep, log, dashboard, self.followed.append)
            source = TrialSource(study, context)
            drive(source, launcher, log, dashboard, retry=0)
        return source

    @property
    def study(self) -> optuna.Study:
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(self.sweep.path / STORE))
        )
        return optuna.load_study(study_name="study-0", storage=storage)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials()

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials]


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
        == json.loads((search.sweep.outputs / best.user_attrs["run"] / "result.json").read_text())["val_loss"]
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


@pytest.mark.parametrize("refused", ["never", "typo"])
def test_rejected_points_do_not_count_and_are_avoided(search: Search, refused: str) -> None:
    search(SimulatedLauncher(loss_of, slots=2), where=space(f"attention=mha,{refused}", LR))
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


# ------------------------------------------------------------------------------------------------ real runs


def command(gptx: Gptx, *overrides: str) -> list[str]:
    return ["-m", "hydra/sweeper=optuna", *OWN_CONF, *once(*gptx.tiny, "sweep.jobs=2", *overrides)]


def stored(gptx: Gptx) -> list[FrozenTrial]:
    """The trials of the only search."""
    [folder] = (gptx.outputs / ".sweeps").iterdir()
    backend = optuna.storages.journal.JournalFileBackend(str(folder / STORE))
    return optuna.load_study(study_name=folder.name, storage=optuna.storages.JournalStorage(backend)).get_trials()


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
    done = gptx.run("gptx.run", *overrides, "hydra.sweeper.n_trials=2")
    assert done.code == 0, done.err
    assert "trials: 2 finished" in done.out and "[2/2] trial " in done.err
    assert [trial.state.name for trial in stored(gptx)] == ["COMPLETE"] * 2 and len(gptx.folders()) == 2
    result = min(json.loads((folder / "result.json").read_text())["val_loss"] for folder in gptx.folders())
    assert f"val_loss {result:.6g}" in done.out and min(trial.values for trial in stored(gptx)) == [result]


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
    best = shlex.split(lines[lines.index("best trial:") + 2])
    assert best[:3] == ["python", "-m", "gptx.run"]
    single = gptx.run("gptx.run", *best[3:])
    assert single.code == 0 and "finished already" in single.out, single.err
    result = min(json.loads((folder / "result.json").read_text())["val_loss"] for folder in gptx.folders())
    assert f"val_loss {result:.6g}" in done.out and min(trial.values for trial in stored(gptx)) == [result]


def test_wrong_search_option_is_reported_in_one_line(gptx: Gptx) -> None:
    done = gptx.run("gptx.run", *command(gptx, "attention=mha,gqa", "hydra.sweeper.n_trial=3"))
    assert done.code == 2
    assert done.err.count("\n") == 1 and "Did you mean 'hydra.sweeper.n_trials'?" in done.err, done.err
    assert not gptx.outputs.exists()


def test_interval_of_real_numbers_for_an_integer_is_rejected() -> None:
    rejections = [cell.rejection for cell in compose_cells(space("model.n_layer=interval(1,3)").examples())]
    assert any("expected a whole number" in rejection for rejection in rejections)


@pytest.mark.parametrize(
    ("overrides", "searched", "expected"),
    [
        (["match=params"], "attention=mha,gqa", "match is an option of a grid, not of a search"),
        (["sweep.lr=[1e-3,3e-3]"], "attention=mha,gqa", "sweep.lr is an option of a grid, not of a search"),
        (["force=true"], "attention=mha,gqa", "force=true: a search does not repeat finished runs"),
        (["runtime.until=10"], "attention=mha,gqa", "the runs of a search train to the end"),
        ([], "trainer.max_steps=10,20", "trainer.max_steps cannot be searched"),
    ],
)
def test_options_that_a_search_rejects(overrides: list[str], searched: str, expected: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        check_options(compose(overrides), replace(KEYS, pruner="median"), space(searched))
    assert expected in str(rejected.value) and "\n" not in str(rejected.value)


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
