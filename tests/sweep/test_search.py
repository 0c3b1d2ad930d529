"""Searches by optuna: any kill loses nothing, nothing is trained twice, what is worse is stopped early."""

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

from gptx.errors import ConfigError, Interrupted
from gptx.runs import journal
from gptx.runs.files import write_json
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.records import EndRecord, MetricsRecord, RunStatus
from gptx.sweep.execute.launcher import End, Launcher, Task
from gptx.sweep.execute.loop import drive
from gptx.sweep.plan.cells import Cell
from gptx.sweep.search import trials as module
from gptx.sweep.search.optuna_study import STORE, SearchOptions, importances, open_study, pruner_of
from gptx.sweep.search.report import show_estimate, show_search
from gptx.sweep.search.space import Space
from gptx.sweep.search.trials import SearchContext, TrialSource
from gptx.sweep.state.dashboard import Dashboard
from gptx.sweep.state.folder import Sweep, SweepKind, SweepPlan
from gptx.sweep.state.records import EndKind

STEPS, EVERY = 40, 10
GB = 10**9
KEYS = SearchOptions(12, ("val_loss",), "tpe", 4, 0, "none", 0)
LR = "optim.lr=tag(log,interval(1e-4,1e-2))"

# ------------------------------------------------------------------------------------------------- the space


def space(*words: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(words)))


@pytest.mark.parametrize(
    ("word", "told", "corners"),
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
def test_the_space_is_the_command_line(word: str, told: str, corners: list[str]) -> None:
    found = space("pos=rope", word)
    key = word.partition("=")[0]
    assert found.fixed == ["pos=rope"]
    assert str(found) == f"  {key}: {told}"
    assert [words[1] for words in found.examples()] == [f"{key}={corner}" for corner in corners]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    [axis] = found.dimensions
    tried = {axis.suggest(study.ask()) for _ in range(20)}
    assert all(len(space(one, "y=1,2").fixed) == 1 for one in tried)  # each is a word of one value
    assert len(tried) > 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["attention=mha", "seed=0"], "nothing to search: expected at least one key with several values, e.g."),
        (["x=interval(2,1)"], "x=interval(2,1): expected a smaller number, then a larger one"),
        (["x=tag(log,interval(0,1))"], "then a larger one, both above 0"),
        (["x=tag(ln,interval(1,2))"], "a search knows only the tag log"),
        (["x=tag(log,choice(1,2))"], "a search knows only the tag log of an interval"),
        (["x=shuffle(1,2)"], "no order to shuffle"),
        (["x=range(3,3)"], "has no values"),
    ],
)
def test_a_space_that_cannot_be(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        space(*words)
    assert expected in str(refused.value) and "\n" not in str(refused.value)


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
def test_keys_that_cannot_be(keys: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(KEYS, **keys).check()  # type: ignore[arg-type]
    assert expected in str(refused.value) and "\n" not in str(refused.value)


# ------------------------------------------------------------------------------------- without any training


class Killed(BaseException):
    """As kill -9: nobody gets to say anything."""


Curve = Callable[[dict[str, str], int], float]


class Pretended(Launcher):
    """Runs that end after STEPS steps, EVERY of which take one `wait`, with the losses of a curve."""

    def __init__(self, curve: Curve, slots: int = 1, kill_at: int = -1, signal_at: int = -1) -> None:
        self.curve, self.slots, self.kill_at, self.signal_at = curve, slots, kill_at, signal_at
        self.begun: list[str] = []
        self.most, self.waits = 0, 0
        self.stopped: set[Task] = set()
        self.tasks: list[Task] = []

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def submit(self, tasks: Sequence[Task]) -> None:
        self.begun += [task.folder.name for task in tasks]
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
        values = dict(word.split("=", 1) for word in task.overrides)
        if values.get("attention") == "broken":
            return End(task, EndKind.FAILED, "the kernel broke")
        with Journal(task.folder) as book:
            if task in self.stopped:
                book.write(EndRecord(status=RunStatus.INTERRUPTED))
                return End(task, EndKind.STOPPED, "stopped")
            step = max(0, book.last_step) + EVERY
            loss = self.curve(values, step)
            book.write(MetricsRecord(step=step, values={"val/loss": loss, "val/accuracy": -loss}))
        if step < STEPS:
            return None
        result = {"status": "finished", "val_loss": loss, "val_accuracy": -loss, "val_bpb": 2 * loss}
        write_json(task.folder / "result.json", result | {"n_params": 4 if values["attention"] == "mha" else 2})
        return End(task, EndKind.FINISHED)

    def stop(self, tasks: Collection[Task]) -> None:
        self.stopped.update(tasks)

    def running(self) -> list[Task]:
        return self.tasks


def loss_of(values: dict[str, str], step: int) -> float:
    return abs(float(values.get("optim.lr", "0.001")) - 0.003) * 100 + (values["attention"] == "gqa") + 1 / step


class Search:
    """One in a folder; every call is a command."""

    def __init__(self, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sweep = Sweep(outputs, "study-0")
        monkeypatch.setattr(module, "compose_cells", lambda combinations: [self.cell(*combinations)])
        monkeypatch.setattr(module, "check_cells", lambda cells, there: None)
        monkeypatch.setattr(module, "check_memory", lambda cells, jobs, here, rooms: None)
        self.followed: list[Path] = []

    def cell(self, words: list[str]) -> Cell:
        if "attention=typo" in words:
            raise ConfigError("unknown option attention=typo")
        folder = self.sweep.outputs / "study" / " ".join(words)
        folder.mkdir(parents=True, exist_ok=True)
        known = {"study": "study", "force": False, "trainer": {"max_steps": STEPS}, "strategy": {}}
        cfg = OmegaConf.create(known)
        refusal = "it cannot be" if "attention=never" in words else ""
        return Cell(words, "", "", cfg, RunFolder(folder), refusal, FACTS)

    def __call__(self, launcher: Pretended, keys: SearchOptions = KEYS, where: Space | None = None) -> TrialSource:
        plan = SweepPlan(study="study", kind=SweepKind.OPTUNA, cells=self.sweep.plan.cells)
        with self.sweep.work(plan) as book:
            study = open_study(self.sweep.path, keys, pruner_of(keys, EVERY))
            dashboard = Dashboard(keys.n_trials, 0, {}, 0.0)
            where = where or space("attention=mha,gqa", LR)
            context = SearchContext(keys, where, (), launcher, self.sweep, book, dashboard, self.followed.append)
            source = TrialSource(study, context)
            drive(source, launcher, book, dashboard, retry=0)
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


def test_as_many_at_once_as_there_is_room_for(search: Search) -> None:
    launcher = Pretended(loss_of, slots=3)
    search(launcher)
    assert launcher.most == 3
    assert search.states() == ["COMPLETE"] * 12
    assert len(launcher.begun) == len(set(launcher.begun)) == len(search.followed)
    assert [cell.run for cell in search.sweep.plan.cells] == [f"study/{name}" for name in launcher.begun]
    best = search.study.best_trial
    assert best.value == min(loss_of(dict(w.split("=") for w in t.user_attrs["words"]), STEPS) for t in search.trials)
    assert (
        best.value
        == json.loads((search.sweep.outputs / best.user_attrs["run"] / "result.json").read_text())["val_loss"]
    )
    assert [record["number"] for record in records(search.sweep.path, "trial")] != []
    assert set(importances(search.study)) == {"attention", "optim.lr"}


@pytest.mark.parametrize(("here", "most"), [(True, 2), (False, 3)])
def test_no_more_at_once_than_memory_has_room_for(
    search: Search, monkeypatch: pytest.MonkeyPatch, here: bool, most: int
) -> None:
    """A point waits until it fits beside what runs, and is not refused for that; elsewhere it is not known."""

    def estimated(cells: list[Cell], jobs: int, _: bool, rooms: dict[str, int]) -> None:
        rooms |= {"cpu": 10 * GB} if here else {}
        cells[0].memory_bytes = 4 * GB

    monkeypatch.setattr(module, "check_memory", estimated)
    launcher = Pretended(loss_of, slots=3)
    search(launcher)
    assert launcher.most == most
    assert search.states() == ["COMPLETE"] * 12


def test_what_there_is_already_is_told(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    launcher, where = Pretended(loss_of), space("attention=mha,gqa", LR)
    search(launcher, replace(KEYS, n_trials=3))
    launcher.sweep = search.sweep
    show_estimate(3, [], launcher, OmegaConf.create())
    assert capsys.readouterr().out == "3 trials: 3 finished\n"
    show_search(KEYS, where, Sweep(search.sweep.outputs, "study-1"), "study")
    new = "this is a new search, because its space or its metrics are new; study=study also has study-0"
    assert capsys.readouterr().out.splitlines()[-1] == new
    show_search(KEYS, where, search.sweep, "study")
    assert "this is a new search" not in capsys.readouterr().out


def test_more_trials_go_on_with_what_there_is(search: Search) -> None:
    first, second, third = Pretended(loss_of), Pretended(loss_of), Pretended(loss_of)
    search(first, replace(KEYS, n_trials=5))
    search(second, replace(KEYS, n_trials=8))
    search(third, replace(KEYS, n_trials=8))
    assert (len(first.begun), len(second.begun), len(third.begun)) == (5, 3, 0)
    assert len({*first.begun, *second.begun}) == 8


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
@pytest.mark.parametrize("slots", [1, 3])
def test_a_killed_search_tries_what_an_undisturbed_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, slots: int
) -> None:
    """Killed at every third moment. One after the other, or at random, the very same values are tried."""
    keys = replace(KEYS, sampler=sampler)
    whole = Search(tmp_path / "whole", monkeypatch)
    whole(Pretended(loss_of, slots), keys)
    broken = Search(tmp_path / "broken", monkeypatch)
    for _ in range(100):
        launcher = Pretended(loss_of, slots, kill_at=4)
        try:
            broken(launcher, keys)
            break
        except Killed:
            running = {trial.user_attrs["run"] for trial in broken.trials if trial.state.name == "RUNNING"}
            assert running == {f"study/{task.folder.name}" for task in launcher.tasks}
            with open(broken.sweep.path / STORE, "ab") as store:
                store.write(b'{"op_code": 5, "wor')  # the line that was being written
            (broken.sweep.path / f"{STORE}.lock").unlink(missing_ok=True)
            (broken.sweep.path / f"{STORE}.lock").symlink_to(STORE)  # what optuna's own lock would have left
    assert broken.states() == ["COMPLETE"] * 12
    if slots == 1 or sampler == "random":
        assert [t.user_attrs["words"] for t in broken.trials] == [t.user_attrs["words"] for t in whole.trials]
    for folder in {trial.user_attrs["run"] for trial in broken.trials}:
        steps = [record["step"] for record in records(broken.sweep.outputs / folder, "metrics")]
        assert steps == list(range(EVERY, STEPS + 1, EVERY))  # each went on, and none began again


def test_a_store_cut_off_anywhere_is_made_whole_again(search: Search) -> None:
    """Killed between any two lines: a trial has half its values, or was not told yet, or refused and not told."""
    keys, where = replace(KEYS, n_trials=3, sampler="random"), space("attention=mha,never", LR)
    search(Pretended(loss_of), keys, where)
    store = search.sweep.path / STORE
    lines = store.read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        store.write_bytes(b"".join(lines[:cut]))
        before, launcher = search.trials, Pretended(loss_of)
        search(launcher, keys, where)
        assert len(launcher.begun) <= 1  # what had only half its values when the line was cut
        assert all(old.params.items() <= new.params.items() for old, new in zip(before, search.trials, strict=False))
        assert search.states().count("COMPLETE") == 3
        assert set(search.states()) <= {"COMPLETE", "PRUNED"}


def test_an_interrupted_search_keeps_its_trials(search: Search) -> None:
    launcher = Pretended(loss_of, slots=2, signal_at=6)
    with pytest.raises(Interrupted):
        search(launcher)
    begun = dict(zip(launcher.begun, search.states(), strict=True))
    assert list(begun.values()) == ["COMPLETE"] * (len(begun) - 2) + ["RUNNING"] * 2
    left = Pretended(loss_of, slots=2)
    search(left)
    assert left.begun[:2] == launcher.begun[-2:]
    assert search.states() == ["COMPLETE"] * 12


def test_one_point_is_trained_once(search: Search) -> None:
    """Proposed again while it runs, and when it has ended."""
    launcher = Pretended(loss_of, slots=4)
    search(launcher, where=space("attention=mha,gqa"))
    assert sorted(launcher.begun) == ["attention=gqa", "attention=mha"]
    assert search.states() == ["COMPLETE"] * 12
    assert {trial.value for trial in search.trials} == {loss_of({"attention": a}, STEPS) for a in ("mha", "gqa")}


def test_what_fails_is_told_with_its_reason(search: Search) -> None:
    search(Pretended(loss_of, slots=2), where=space("attention=mha,broken", LR))
    failed = [trial for trial in search.trials if trial.state.name == "FAIL"]
    assert len(search.trials) == 12 and 0 < len(failed) < 12
    assert {trial.params["attention"] for trial in failed} == {"broken"}
    assert {trial.user_attrs["reason"] for trial in failed} == {"the kernel broke"}


def test_a_result_without_the_figure_is_a_failure(search: Search) -> None:
    search(Pretended(lambda values, step: float("nan")), replace(KEYS, n_trials=2))
    assert search.states() == ["FAIL"] * 2
    assert search.trials[0].user_attrs["reason"] == "its result has no finite val_loss"


@pytest.mark.parametrize("refused", ["never", "typo"])
def test_refused_points_do_not_count_and_are_learnt_from(search: Search, refused: str) -> None:
    search(Pretended(loss_of, slots=2), where=space(f"attention=mha,{refused}", LR))
    counted = [trial for trial in search.trials if "refused" not in trial.user_attrs]
    assert [trial.state.name for trial in counted] == ["COMPLETE"] * 12
    assert {trial.params["attention"] for trial in counted} == {"mha"}
    said = records(search.sweep.path, "refused")
    assert len(said) == len(search.trials) - 12 > 0
    assert all(len(record["reason"]) > 5 and record["title"].startswith("trial ") for record in said)


def test_a_space_of_refusals_ends(search: Search) -> None:
    launcher = Pretended(loss_of, slots=2)
    source = search(launcher, where=space("attention=never,typo", LR))
    assert "25 points in a row were rejected, the last one because" in source.abandoned
    assert launcher.begun == []


@pytest.mark.parametrize(("by", "metric"), [("median", "val_loss"), ("asha", "val_loss"), ("median", "val_accuracy")])
def test_what_is_worse_is_stopped(search: Search, by: str, metric: str) -> None:
    keys = replace(KEYS, pruner=by, metrics=(metric,), sampler="random", n_trials=20)
    launcher = Pretended(loss_of, slots=2)
    search(launcher, keys)
    assert len(launcher.begun) == 20
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


def test_nobody_is_pruned_before_the_warm_up(search: Search) -> None:
    search(Pretended(loss_of, slots=2), replace(KEYS, pruner="median", warmup=2 * EVERY, sampler="random", n_trials=20))
    pruned = [trial for trial in search.trials if trial.state.name == "PRUNED"]
    assert pruned and all(trial.last_step is not None and trial.last_step >= 2 * EVERY for trial in pruned)


def test_a_killed_run_is_not_stopped_before_it_goes_on(search: Search) -> None:
    """What it had done is known to the pruner; only what it does now can stop it."""
    keys = replace(KEYS, pruner="median", startup=1, n_trials=3)
    search(Pretended(loss_of), replace(keys, n_trials=2))
    worse = Pretended(lambda values, step: 100.0, kill_at=2)
    with pytest.raises(Killed):
        search(worse, keys)
    again = Pretended(lambda values, step: 100.0)
    search(again, keys)
    assert again.begun == worse.begun
    assert again.waits >= 2  # it had a step to make, and then to stop
    assert search.states()[-1] == "PRUNED"


def test_a_front_of_two_figures(search: Search) -> None:
    def dear(values: dict[str, str], step: int) -> float:  # what has fewer parameters is worse
        return float(values["optim.lr"]) + (values["attention"] == "gqa")

    search(Pretended(dear, slots=2), replace(KEYS, metrics=("val_loss", "n_params")))
    front = search.study.best_trials
    assert {trial.params["attention"] for trial in front} == {"mha", "gqa"}
    assert len(front) == 2
    assert search.states() == ["COMPLETE"] * 12


def test_optuna_says_nothing(search: Search, capfd: pytest.CaptureFixture[str]) -> None:
    search(Pretended(loss_of), replace(KEYS, n_trials=6, pruner="asha"))
    said = capfd.readouterr()
    assert "[I " not in said.err and "Warning" not in said.err + said.out
    assert all(line.startswith(("[", "trial ")) for line in said.err.splitlines())


# ------------------------------------------------------------------------------------------------ real runs


def command(gptx: Gptx, *words: str) -> list[str]:
    return ["-m", "hydra/sweeper=optuna", *OWN_CONF, *once(*gptx.tiny, "sweep.jobs=2", *words)]


def stored(gptx: Gptx) -> list[FrozenTrial]:
    """The trials of the only search there is."""
    [folder] = (gptx.outputs / ".sweeps").iterdir()
    backend = optuna.storages.journal.JournalFileBackend(str(folder / STORE))
    return optuna.load_study(study_name=folder.name, storage=optuna.storages.JournalStorage(backend)).get_trials()


def test_a_search_killed_with_its_runs_goes_on_and_further(gptx: Gptx) -> None:
    words = command(gptx, "attention=mha,gqa", LR, "kernel=fragile")
    dry = gptx.run("gptx.run", *words, "dry_run=true")
    assert dry.code == 0 and not gptx.outputs.exists(), dry.err
    assert (
        "search: 20 trials to minimize val_loss, sampled by tpe, in" in dry.out
        and "optim.lr: 0.0001 to 0.01, log scale" in dry.out
    )
    corners, last = dry.out.splitlines()[-2:]
    assert corners.startswith("a trial needs ") and " MB and takes " in corners
    assert last.startswith("20 trials: 20 to run, 2 at once, about ") and last.endswith(
        " (estimated from a timed step)"
    )
    pause = {"PAUSE_AT": "15", "PAUSE_IN": str(gptx.cwd)}
    killed = gptx.popen("gptx.run", *words, "hydra.sweeper.n_trials=2", **pause)
    begun = lambda: [folder for folder in gptx.folders() if records(folder, "start")]  # noqa: E731
    assert until(lambda: len(begun()) == 2 and (gptx.cwd / "paused-0").exists(), killed)
    killed.kill()
    (gptx.cwd / "go").touch()
    killed.communicate(timeout=DEADLINE)
    assert gptx.orphans() == []
    before = [trial.params for trial in stored(gptx)]
    assert [trial.state.name for trial in stored(gptx)] == ["RUNNING"] * 2
    uids = {folder.name: records(folder, "start")[0]["uid"] for folder in gptx.folders()}
    done = gptx.run("gptx.run", *words, "hydra.sweeper.n_trials=3")
    assert done.code == 0, done.err
    assert "3 finished" in done.out and "[3/3] trial " in done.err
    assert [trial.state.name for trial in stored(gptx)] == ["COMPLETE"] * 3
    assert [trial.params for trial in stored(gptx)[:2]] == before
    assert len(gptx.folders()) == 3
    assert uids.items() <= {folder.name: records(folder, "start")[0]["uid"] for folder in gptx.folders()}.items()
    lines = done.out.splitlines()
    best = shlex.split(lines[lines.index("best trial:") + 2])
    assert best[:3] == ["python", "-m", "gptx.run"]
    alone = gptx.run("gptx.run", *best[3:])
    assert alone.code == 0 and "finished already" in alone.out, alone.err
    result = min(json.loads((folder / "result.json").read_text())["val_loss"] for folder in gptx.folders())
    assert f"val_loss {result:.6g}" in done.out and min(trial.values for trial in stored(gptx)) == [result]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["attention=mha,gqa", "hydra.sweeper.n_trial=3"], "Did you mean 'hydra.sweeper.n_trials'?"),
        (["model.n_layer=interval(1,3)"], "expected a whole number"),
        (["attention=mha,gqa", "match=params"], "match is an option of a grid, not of a search"),
        (["attention=mha,gqa", "force=true"], "force=true: a search uses finished runs as they are"),
        (["attention=mha,gqa", "runtime.until=10"], "the runs of a search train to their end"),
        (["trainer.max_steps=10,20", "hydra.sweeper.pruner=median"], "trainer.max_steps cannot be searched"),
    ],
)
def test_a_mistake_is_one_line(gptx: Gptx, words: list[str], expected: str) -> None:
    done = gptx.run("gptx.run", *command(gptx, *words))
    assert done.code == 2
    assert done.err.count("\n") == 1 and expected in done.err, done.err
    assert not gptx.outputs.exists()


@pytest.mark.slow
def test_real_runs_are_pruned(make: Maker) -> None:
    """Rates that learn nothing are stopped; what was stopped could go on by hand."""
    gptx = make("pruned")
    words = ["optim.lr=tag(log,interval(1e-7,1e-2))", "hydra.sweeper.n_trials=5", "hydra.sweeper.pruner=median"]
    pace = ["hydra.sweeper.startup=1", "hydra.sweeper.sampler=random", "trainer.max_steps=400", "kernel=fragile"]
    done = gptx.run("gptx.run", *command(gptx, *words, *pace, "sweep.jobs=1"), SLOW="0.005")
    assert done.code == 0, done.err
    states = {trial.user_attrs["run"]: trial.state.name for trial in stored(gptx)}
    assert set(states.values()) == {"COMPLETE", "PRUNED"}
    for run, state in states.items():
        assert journal.status(gptx.outputs / run) == ("interrupted" if state == "PRUNED" else "finished")
        assert (gptx.outputs / run / "checkpoints").is_dir()
    assert ": pruned at step " in done.err and " pruned" in done.out
