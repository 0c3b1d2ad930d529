"""Successive halving: the promoted arms, the step from which they continue, and equal decisions after a kill.
Training is simulated."""

import io
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fake_cells import FACTS
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from gptx.errors import ConfigError
from gptx.runs.folder import RunFolder
from gptx.runs.journal import Journal
from gptx.runs.records import MetricsRecord
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.plan import preview
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.halving import HalvingState, rung_steps
from gptx.sweep.plan.time_estimate import TimeEstimate
from gptx.sweep.search.halving_source import HalvingSource
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import AttemptOutcome, CommandStarted, Rung, SweepJournal, read_records

STEPS, EVERY = 800, 100
Loss = Callable[[Path, int], float]


def cells(root: Path, arms: int = 8, seeds: int = 1, force: bool = False, **trainer: int) -> list[Cell]:
    """Arms named a0, a1, ..., none of them started."""
    keys = {"max_steps": STEPS, "eval_every": EVERY, **trainer}
    config = {"trainer": keys, "strategy": {}, "resume_from": "", "force": force}
    titles = [(f"a{arm}", f"a{arm} seed={seed}") for arm in range(arms) for seed in range(seeds)]
    return [Cell([title], title, arm, config, RunFolder(root / title), facts=FACTS) for arm, title in titles]


def until(task: Task) -> int:
    return next((int(one.partition("=")[2]) for one in task.overrides if one.startswith("runtime.until=")), STEPS)


def later_is_better(folder: Path, step: int) -> float:
    return 3 - float(folder.name[1]) / 10 + 1 / step


class SimulatedSweep:
    """A sweep's folder, in which the same command is started again and again."""

    def __init__(self, root: Path, loss: Loss = later_is_better) -> None:
        self.root, self.loss, self.failing = root, loss, set[str]()
        self.trained: list[tuple[str, int, int]] = []  # title, from, to

    def command(self, found: list[Cell], ends: float = math.inf, factor: int = 2) -> HalvingSource:
        """Run the sweep; it is killed after this many runs have ended."""
        self.root.mkdir(exist_ok=True)
        with SweepJournal(self.root) as log:
            log.write(CommandStarted(force=any(cell.config["force"] for cell in found)))
            records = list(read_records(self.root))
            source = HalvingSource(found, ["brief"], factor, log, records)
            while tasks := source.next_tasks(2):
                for task in tasks:
                    if ends <= 0:
                        return source
                    ends -= 1
                    source.ended(self.train(task))
        assert source.done
        return source

    def train(self, task: Task) -> End:
        """Train a run from its newest step to the step that its task asks for."""
        task.folder.mkdir(parents=True, exist_ok=True)
        with Journal(task.folder) as log:
            first, last = max(0, log.last_step), until(task)
            self.trained.append((task.title, first, last))
            if task.title in self.failing:
                return End(task, AttemptOutcome.REJECTED, "it broke")
            for step in range(first + EVERY, last + 1, EVERY):
                loss = self.loss(task.folder, step)  # the report half has the opposite order
                log.write(MetricsRecord(step=step, values={"val/bpb": 9 - loss, "val/bpb_select": loss}))
        if last == STEPS:
            (task.folder / "result.json").write_text(json.dumps({"status": "finished"}))
        return End(task, AttemptOutcome.FINISHED if last == STEPS else AttemptOutcome.PAUSED)

    def decisions(self) -> list[tuple[int, list[str]]]:
        return [(r.step, list(r.promoted)) for r in read_records(self.root) if isinstance(r, Rung)]

    def spans(self) -> dict[int, set[str]]:
        """The arms that were trained up to each step."""
        found: dict[int, set[str]] = {}
        for title, _, last in self.trained:
            found.setdefault(last, set()).add(title.split()[0])
        return found


def test_better_half_continues_from_its_checkpoints(tmp_path: Path) -> None:
    sweep = SimulatedSweep(tmp_path)
    source = sweep.command(cells(tmp_path, 8, seeds=2))
    assert [(step, sorted(promoted)) for step, promoted in sweep.decisions()] == [
        (100, ["a4", "a5", "a6", "a7"]),
        (200, ["a6", "a7"]),
        (400, ["a7"]),
    ]
    assert {last: len(arms) for last, arms in sweep.spans().items()} == {100: 8, 200: 4, 400: 2, 800: 1}
    later = [(first, last) for _, first, last in sweep.trained if last > 100]
    assert all(first in (0, last // 2, last) for first, last in later), "not from its checkpoint"
    assert sum(last - first for _, first, last in sweep.trained) == 2 * (8 * 100 + 4 * 100 + 2 * 200 + 400)
    dropped = source.dropped()
    assert dropped["a3 seed=1"] == "dropped at step 100: place 5 of 8"
    assert dropped["a0 seed=0"] == "dropped at step 100: place 8 of 8"
    assert dropped["a6 seed=0"] == "dropped at step 400: place 2 of 2"
    assert len(dropped) == 14 and "a7 seed=0" not in dropped


class ConstantTime:
    """A time estimator: each run takes 80 s, and its start."""

    def estimate(self, cell: Cell) -> TimeEstimate:
        return TimeEstimate(81.5, 1, "a guess")


def test_preview_shows_decided_and_coming_rungs(tmp_path: Path) -> None:
    folder = Sweep(tmp_path, "it")
    folder.path.parent.mkdir()
    sweep, found = SimulatedSweep(folder.path), cells(folder.path)

    def last_lines() -> list[str]:
        out = io.StringIO()
        state, console = HalvingState.next_command(found, 2, folder), Console(file=out, width=100)
        preview.show(found, 2, ConstantTime(), halving=state, console=console)  # type: ignore[arg-type]
        return [line.strip() for line in out.getvalue().splitlines()]

    assert last_lines()[-2:] == [
        "halving: after steps 100, 200, 400 only the better half of these arms continues",
        # 4 x 11.5 + 2 x 11.5 + 21.5 + 41.5 s
        "8 combinations: 8 to run, 2 at once, about 2.2 min (estimated from a guess)",
    ]
    sweep.command(found, ends=12)
    assert last_lines()[-2:] == [
        "halving: after step 400 only the better half of these arms continues",
        "8 combinations: 2 to run, 2 at once, about 83 s (estimated from a guess); 6 dropped",
    ]
    sweep.command(found)
    assert last_lines()[-3].endswith("dropped") and last_lines()[-2].endswith("finished")
    assert last_lines()[-1] == "8 combinations: 1 finished; 7 dropped"


@settings(max_examples=30)
@given(st.integers(1, 7), st.integers(1, 2), st.integers(2, 4), st.lists(st.integers(0, 9), max_size=5), st.integers())
def test_killed_sweep_makes_the_same_decisions(arms: int, seeds: int, factor: int, kills: list[int], luck: int) -> None:
    def loss(folder: Path, step: int) -> float:
        return random.Random(f"{luck} {folder.name} {step}").choice([1.0, 2.0, 3.0, math.nan])

    with TemporaryDirectory() as name:
        undisturbed, killed = (SimulatedSweep(Path(name) / which, loss) for which in ("undisturbed", "killed"))
        one = undisturbed.command(cells(undisturbed.root, arms, seeds), factor=factor)
        for ends in kills:
            killed.command(cells(killed.root, arms, seeds), ends, factor)
        other = killed.command(cells(killed.root, arms, seeds), factor=factor)
        assert killed.decisions() == undisturbed.decisions()
        assert other.dropped() == one.dropped() and other.remaining == one.remaining
        assert sorted(killed.trained) == sorted(undisturbed.trained), "something was trained twice"
        again = killed.command(cells(killed.root, arms, seeds), factor=factor)
        assert len(killed.trained) == len(undisturbed.trained) and again.dropped() == one.dropped()


def test_first_arm_of_the_grid_wins_if_losses_are_equal(tmp_path: Path) -> None:
    sweep = SimulatedSweep(tmp_path, lambda folder, step: 1.0)
    sweep.command(cells(tmp_path, 4))
    assert sweep.decisions() == [(200, ["a0", "a1"]), (400, ["a0"])]


def test_arm_with_a_failed_run_is_dropped(tmp_path: Path) -> None:
    sweep = SimulatedSweep(tmp_path)
    sweep.failing = {"a3 seed=0"}
    source = sweep.command(cells(tmp_path, 4, seeds=2))
    assert sweep.decisions() == [(200, ["a1", "a2"]), (400, ["a2"])]
    assert source.dropped()["a3 seed=1"] == "dropped at step 200: a run of this arm failed"
    assert "a3" not in sweep.spans()[400] | sweep.spans()[800]


def test_failed_run_is_retried_and_its_rung_is_decided_again(tmp_path: Path) -> None:
    sweep = SimulatedSweep(tmp_path)
    sweep.failing = {"a3 seed=0"}
    sweep.command(cells(tmp_path, 4, seeds=2))
    sweep.trained.clear()
    again = sweep.command(cells(tmp_path, 4, seeds=2))
    assert sweep.trained == [("a3 seed=0", 0, 200)] and again.failed == {"a3"}, "the second failure is not reported"
    sweep.failing.clear()
    sweep.trained.clear()
    source = sweep.command(cells(tmp_path, 4, seeds=2))
    assert sweep.decisions()[-2:] == [(200, ["a2", "a3"]), (400, ["a3"])]
    assert {(title, last) for title, _, last in sweep.trained} == {
        ("a3 seed=0", 200),
        *((f"a3 seed={seed}", last) for seed in (0, 1) for last in (400, 800)),
    }
    assert source.dropped()["a1 seed=0"] == "dropped at step 200: place 3 of 4", "although it was trained to step 400"
    sweep.trained.clear()
    assert sweep.command(cells(tmp_path, 4, seeds=2)).dropped() == source.dropped() and sweep.trained == []
    assert len(sweep.decisions()) == 6, "the newest decision does not count"


def test_halving_ends_if_all_arms_fail(tmp_path: Path) -> None:
    sweep = SimulatedSweep(tmp_path)
    sweep.failing = {f"a{arm} seed=0" for arm in range(4)}
    source = sweep.command(cells(tmp_path, 4))
    assert source.done and sweep.decisions() == [(200, [])] and len(source.dropped()) == 4


def test_diverged_arm_is_last(tmp_path: Path) -> None:
    sweep = SimulatedSweep(
        tmp_path, lambda folder, step: math.nan if folder.name[1] == "0" else later_is_better(folder, step)
    )
    sweep.command(cells(tmp_path, 2))
    assert sweep.decisions() == [(400, ["a1"])]


def test_no_rung_is_decided_while_runs_are_interrupted(tmp_path: Path) -> None:
    """After a signal the loop asks for no more tasks; an interrupted run has not failed."""
    found = cells(tmp_path, 4)
    with SweepJournal(tmp_path) as log:
        source = HalvingSource(found, [], 2, log, [])
        for task in source.next_tasks(4):
            source.ended(End(task, AttemptOutcome.STOPPED, "interrupted"))
    assert SimulatedSweep(tmp_path).decisions() == []
    sweep = SimulatedSweep(tmp_path)
    sweep.command(found)
    assert sweep.decisions() == [(200, ["a2", "a3"]), (400, ["a3"])]


def test_single_arm_trains_to_the_end_without_rungs(tmp_path: Path) -> None:
    sweep = SimulatedSweep(tmp_path)
    sweep.command(cells(tmp_path, 1, seeds=2))
    assert sweep.decisions() == [] and set(sweep.trained) == {("a0 seed=0", 0, 800), ("a0 seed=1", 0, 800)}


def test_finished_runs_are_compared_and_not_trained_again(tmp_path: Path) -> None:
    sweep, found = SimulatedSweep(tmp_path), cells(tmp_path, 4)
    for cell in found:
        sweep.train(cell.task([]))
        cell.facts = None  # finished cells are not checked
    sweep.trained.clear()
    assert sweep.command(found).done and sweep.trained == []
    assert sweep.decisions() == [(200, ["a2", "a3"]), (400, ["a3"])]


def test_run_that_ended_early_counts_with_its_last_validation(tmp_path: Path) -> None:
    """The run is one of an earlier version, which had no halves."""
    sweep, found = SimulatedSweep(tmp_path), cells(tmp_path, 2)
    early = tmp_path / "a0 seed=0"
    early.mkdir()
    with Journal(early) as log:
        log.write(MetricsRecord(step=EVERY, values={"val/bpb": 0.5}))
    (early / "result.json").write_text('{"status": "finished"}')
    sweep.command(found)
    assert sweep.decisions() == [(400, ["a0"])]


def test_force_restarts_every_run_once(tmp_path: Path) -> None:
    sweep = SimulatedSweep(tmp_path)
    sweep.command(cells(tmp_path, 2))
    given: list[tuple[bool, int]] = []
    with SweepJournal(tmp_path) as log:
        source = HalvingSource(cells(tmp_path, 2, force=True), [], 2, log, read_records(tmp_path))
        while tasks := source.next_tasks(2):
            for task in tasks:
                given.append(("force=false" in task.overrides, until(task)))
                if not given[-1][0]:
                    shutil.rmtree(task.folder)
                source.ended(sweep.train(task))
    assert given == [(False, 400), (False, 400), (True, 800)]


def test_decisions_before_force_do_not_count(tmp_path: Path) -> None:
    sweep = SimulatedSweep(tmp_path)
    sweep.command(cells(tmp_path, 4))
    for cell in cells(tmp_path, 4):
        assert cell.folder is not None
        shutil.rmtree(cell.folder.path)
    sweep.loss = lambda folder, step: -later_is_better(folder, step)
    sweep.command(cells(tmp_path, 4, force=True))
    assert sweep.decisions()[-2:] == [(200, ["a0", "a1"]), (400, ["a0"])]
    assert sweep.command(cells(tmp_path, 4)).remaining == ["a0"]


def test_decisions_that_drop_every_arm_are_read_from_the_journal(tmp_path: Path) -> None:
    losses: dict[str, float | None] = {f"a{arm}": None for arm in range(4)}
    with SweepJournal(tmp_path) as log:
        for step in (200, 400):
            log.write(Rung(step=step, factor=2, losses=losses))
        source = HalvingSource(cells(tmp_path, 4), [], 2, log, read_records(tmp_path))
    assert source.done and source.dropped()["a0 seed=0"] == "dropped at step 200: a run of this arm failed"


@given(st.integers(1, 60), st.integers(1, 5000), st.integers(1, 500), st.integers(2, 5))
def test_rungs_are_validations_near_the_fractions(arms: int, max_steps: int, eval_every: int, factor: int) -> None:
    found = rung_steps(arms, max_steps, eval_every, factor)
    assert found == sorted(set(found)) and all(0 < step < max_steps and step % eval_every == 0 for step in found)
    assert (found == []) if arms == 1 else len(found) <= math.ceil(math.log(arms, factor) + 1e-9)
    for step, rest in zip(found, range(len(found), 0, -1), strict=True):
        assert abs(step - max_steps / factor**rest) <= eval_every / 2 or eval_every > max_steps / factor**rest / 2


def test_rungs_of_typical_grids() -> None:
    assert rung_steps(8, 800, 100, 2) == [100, 200, 400]
    assert rung_steps(9, 900, 50, 3) == [100, 300]
    assert rung_steps(6, 800, 100, 2) == [100, 200, 400]
    assert rung_steps(3, 30, 10, 2) == [10, 20] and rung_steps(2, 100, 100, 2) == []


def test_sweeps_that_halving_rejects(tmp_path: Path) -> None:
    def rejected(found: list[Cell], factor: int = 2) -> str:
        with SweepJournal(tmp_path) as log, pytest.raises(ConfigError) as caught:
            HalvingSource(found, [], factor, log, [])
        return str(caught.value)

    assert "sweep.factor=1: expected at least 2" in rejected(cells(tmp_path), 1)
    mixed = [*cells(tmp_path), *cells(tmp_path, max_steps=400)]
    assert "trainer.max_steps=400,800 cannot vary" in rejected(mixed)
    coarse = rejected(cells(tmp_path, eval_every=800))
    assert "trainer.eval_every=800 leaves none" in coarse and coarse.endswith("use trainer.eval_every=200")
    started = cells(tmp_path)
    started[0].config["resume_from"] = "outputs/x"
    assert "remove resume_from" in rejected(started)


def test_nothing_runs_if_all_cells_are_rejected(tmp_path: Path) -> None:
    sweep = SimulatedSweep(tmp_path)
    assert sweep.command([]).done and sweep.trained == []
