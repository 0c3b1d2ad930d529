"""Sweeps on this machine: failures and their reasons, finished runs, retries, and the commands that show them."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from command import DEADLINE, OWN_CONF, Done, Gptx, history, records, same, until
from conftest import Maker, Trained
from in_process import run_here, sweep_arguments, sweep_here

from gptx.hardware.cpu import cores
from gptx.runs import checkpoint_files, journal
from gptx.sweep.__main__ import main
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.isolated import call_each
from gptx.sweep.execute.launcher import End, Launcher, Task
from gptx.sweep.execute.loop import TaskList, drive
from gptx.sweep.execute.prewarm import start_process
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import AttemptOutcome, RunEnded


def uids(gptx: Gptx) -> dict[str, str]:
    """The uid of each run, by folder name."""
    return {folder.name: start["uid"] for folder in gptx.folders() for start in records(folder, "start")}


def failures(text: str) -> dict[str, str]:
    """The list of failures that a sweep prints at its end: reason by title."""
    reasons: dict[str, str] = {}
    titles: list[str] = []
    for line in text[text.index("failed:\n") :].splitlines()[1:]:
        if line.startswith("    "):  # the reason of the titles above it
            reasons |= dict.fromkeys(titles, line.strip())
            titles = []
        else:
            titles.append(line.strip())
    return reasons


def sweep_records(gptx: Gptx, kind: str) -> list[dict[str, Any]]:
    """The records of the only sweep."""
    return records(gptx.sweep_folder, kind)


# --------------------------------------------------------------------------------------- one sweep with failures


@dataclass(frozen=True)
class Swept:
    """A finished sweep, for reading only."""

    gptx: Gptx
    done: Done


WAYS = ("none", "raise", "exit", "segfault", "kill")


@pytest.fixture(scope="module")
def failing(make: Maker) -> Swept:
    """A sweep of rejected cells, a run that finishes, and runs that fail in different ways."""
    gptx = make("failing")
    overrides = ["kernel=troubled", f"kernel.how={','.join(WAYS)}", "model.n_head=4,3", "sweep.skip_invalid=true"]
    return Swept(gptx, sweep_here(gptx, *overrides, "sweep.grace=1"))


def title(way: str, n_head: int = 4) -> str:
    return f"model.n_head={n_head} kernel.how={way}"


def test_every_failure_is_listed_with_its_reason(failing: Swept) -> None:
    assert failing.done.code == 1
    reasons = failures(failing.done.err)
    assert len(reasons) == 4 and title("none") not in reasons
    assert reasons[title("raise")] == "RuntimeError: the kernel broke"
    assert reasons[title("exit")] == "its process ended without an error message (exit code 7)"
    assert reasons[title("segfault")] == "its process ended without an error message (SIGSEGV)"
    assert reasons[title("kill")].startswith("killed (SIGKILL)") and "out of memory" in reasons[title("kill")]
    assert "1 variant, 1 run" in failing.done.out and "[5/5]" in failing.done.err


def test_journal_records_rejections_and_ends(failing: Swept) -> None:
    assert {record["title"] for record in sweep_records(failing.gptx, "refused")} == {title(way, 3) for way in WAYS}
    outcomes = {record["title"]: record["outcome"] for record in sweep_records(failing.gptx, "end")}
    assert outcomes == {title(way): "finished" if way == "none" else "failed" for way in WAYS}


def test_list_status_and_collect_of_a_finished_sweep(failing: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--outputs", str(failing.gptx.outputs)]
    assert main(["list", *at]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1:5] == ["grid", "local", "5", "1"]
    assert main(["status", *at]) == 0
    output = capsys.readouterr().out
    assert "1 finished, 4 failed, 5 rejected" in output and "run the rest: python -m gptx.run -m" in output
    assert main(["collect", *at]) == 1
    collected = capsys.readouterr()
    assert "1 variant, 1 run" in collected.out
    assert "\ngptx: 4 of 10 failed:\n" in collected.err
    assert f"\n  {title('raise')}\n    RuntimeError: the kernel broke\n" in collected.err
    assert f"\ngptx: 5 of 10 rejected:\n  {title('none', 3)}\n" in collected.err
    assert main(["cancel", *at]) == 0
    assert "nothing is running or waiting" in capsys.readouterr().out


def test_output_of_a_run_is_in_its_log(failing: Swept) -> None:
    [finished] = [folder for folder in failing.gptx.folders() if journal.status(folder) == "finished"]
    log = (finished / "logs" / "run.log").read_text()
    assert log.startswith(f"{finished.name}\n  folder ") and "   train loss " in log and "  finished\nval loss " in log


def test_plan_has_the_command_of_each_run(failing: Swept) -> None:
    plan = failing.gptx.sweep_folder / "plan.json"
    [cell] = [cell for cell in json.loads(plan.read_text())["cells"] if cell["title"] == title("none")]
    done = run_here(failing.gptx, *OWN_CONF, *cell["overrides"])
    assert done.code == 0 and "finished already" in done.out and cell["run"] in done.out


# ------------------------------------------------------------------------------------------------- finished runs


def test_finished_runs_are_shown_and_not_trained_again(gptx: Gptx) -> None:
    overrides = ["attention=mha,gqa", "seed=0,0"]  # a value given twice is one run
    done = sweep_here(gptx, *overrides)
    assert done.code == 0, done.err
    assert "2 combinations" in done.out and "2 variants, 2 runs" in done.out
    before = uids(gptx)
    assert len(before) == 2
    again = sweep_here(gptx, *overrides)
    assert again.code == 0 and "2 variants, 2 runs" in again.out
    assert uids(gptx) == before


def test_runs_stop_at_runtime_until_and_resume_bit_for_bit(gptx: Gptx, trained: Trained) -> None:
    done = sweep_here(gptx, "seed=0", "runtime.until=10")
    assert done.code == 0, done.err
    assert "paused at step 10" in done.err
    assert journal.status(gptx.folder) == "interrupted"
    assert ("val/loss", 10) in history(gptx.folder)
    assert sweep_here(gptx, "seed=0", "runtime.until=99").code == 0
    same(gptx.folder, trained.folder)


# ------------------------------------------------------------------------------------------ the loop, the dashboard


class Scripted(Launcher):
    """A launcher whose runs end immediately, in the ways that a script lists for each title."""

    def __init__(self, script: dict[str, list[AttemptOutcome]]) -> None:
        self.script, self.slots = script, 4
        self.submitted: list[str] = []
        self.tasks: list[Task] = []

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        pass

    def submit(self, tasks: Sequence[Task]) -> None:
        self.submitted += [task.title for task in tasks]
        self.tasks += tasks

    def wait(self) -> list[End]:
        ends = [
            End(task, outcome := self.script[task.title].pop(0), "" if outcome.reached_goal else outcome)
            for task in self.tasks
        ]
        self.tasks = []
        return ends

    def stop(self, tasks: Collection[Task]) -> None:
        pass

    def running(self) -> list[Task]:
        return self.tasks


def test_failures_are_retried_but_wrong_configs_are_not(tmp_path: Path) -> None:
    failed, limit, finished = AttemptOutcome.FAILED, AttemptOutcome.LIMIT_EXCEEDED, AttemptOutcome.FINISHED
    rejected = AttemptOutcome.REJECTED
    script = {"once": [failed, finished], "always": [limit, failed], "wrong": [rejected], "good": [finished]}
    launcher, sweep = Scripted({**script}), Sweep(tmp_path, "it")
    sweep.path.mkdir(parents=True)
    tasks = [Task(title, tmp_path / title, (), 1, "cpu") for title in script]
    with sweep.journal() as sweep_journal:
        result = drive(TaskList(tasks), launcher, sweep_journal, Dashboard(4, 0, {}, 0.0), retry=1)
    assert {task.title: reason for task, reason in result.items()} == {"always": "failed", "wrong": "rejected"}
    assert Counter(launcher.submitted) == {"once": 2, "always": 2, "wrong": 1, "good": 1}
    ends = [(end.title, end.outcome, end.retried) for end in sweep.records_of(RunEnded)]
    assert ends[:2] == [("once", failed, True), ("always", limit, True)]
    assert set(ends[2:4]) == {("wrong", rejected, False), ("good", finished, False)}
    assert ends[4:] == [("once", finished, False), ("always", failed, False)]


def test_stopped_run_is_not_reported_as_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dashboard = Dashboard(2, 0, {}, 0.0)
    stopped, failed = AttemptOutcome.STOPPED, AttemptOutcome.FAILED
    ends = {"a": (stopped, "checkpoint at step 3"), "b": (failed, "RuntimeError: it broke")}
    for name, (outcome, reason) in ends.items():
        dashboard.run_ended(End(Task(name, tmp_path, (), 1, "cpu"), outcome, reason), retried=False)
    assert capsys.readouterr().err.splitlines() == [
        "[0/2] a: stopped (checkpoint at step 3)",
        "[1/2] b: failed: RuntimeError: it broke",
    ]


def test_isolated_process_ends_silently_when_its_sweep_is_killed() -> None:
    answers, sending = Pipe(duplex=False)
    answers.close()
    child = start_process(call_each, int, ["1"], sending, daemon=True)
    sending.close()
    child.join()
    assert child.exitcode == 0


# ---------------------------------------------------------------------------------------------------- second tier


@pytest.fixture
def pausing_grid(gptx: Gptx) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Arguments and environment of a sweep whose runs pause in step 15."""
    arguments = sweep_arguments(gptx, "kernel=fragile", "seed=0,1,2", "sweep.jobs=2")
    yield [word for word in arguments if "threads" not in word], {"PAUSE_AT": "15", "PAUSE_IN": str(gptx.cwd)}
    (gptx.cwd / "go").touch()


@pytest.mark.full
def test_runs_share_the_slots_and_the_cores(gptx: Gptx, pausing_grid: tuple[list[str], dict[str, str]]) -> None:
    running = gptx.popen("gptx.run", *pausing_grid[0], **pausing_grid[1])
    assert until(lambda: len([folder for folder in gptx.folders() if records(folder, "metrics")]) == 2, running)
    assert len(gptx.folders()) == 2
    (gptx.cwd / "go").touch()
    _, err = running.communicate(timeout=DEADLINE)
    assert running.returncode == 0, err
    assert len(gptx.folders()) == 3
    threads = {records(folder, "start")[0]["config"]["runtime"]["threads"] for folder in gptx.folders()}
    assert threads == {max(1, cores() // 2)}


@pytest.mark.full
def test_run_that_exceeds_its_memory_limit_is_killed(gptx: Gptx) -> None:
    limits = ["sweep.grace=1", "sweep.memory=1.5"]
    done = sweep_here(gptx, "kernel=troubled", "kernel.how=memory", *limits)
    assert done.code == 1
    [reason] = failures(done.err).values()
    assert "more than sweep.memory=1.5" in reason
    assert [record["outcome"] for record in sweep_records(gptx, "end")] == ["limit_exceeded"]


@pytest.mark.full
def test_run_that_hangs_is_ended_at_its_time_limit(gptx: Gptx) -> None:
    done = sweep_here(gptx, "kernel=troubled", "kernel.how=hang", "sweep.timeout=0.2", "sweep.grace=1")
    assert done.code == 1
    [reason] = failures(done.err).values()
    step = checkpoint_files.newest(gptx.folder / "checkpoints")
    progress = f"checkpoint at step {step}" if step else "no checkpoint yet"
    assert reason == f"took longer than sweep.timeout=0.2 minutes ({progress})"


@pytest.mark.full
def test_force_replaces_old_runs_once(gptx: Gptx) -> None:
    """A retry resumes the new run, and the result of the replaced run does not count as a success."""
    arguments = sweep_arguments(gptx, "kernel=troubled", "kernel.how=none,once", "sweep.retry=1")
    env = {"PAUSE_IN": str(gptx.cwd)}
    (gptx.cwd / "broken once").touch()
    assert gptx.run("gptx.run", *arguments, **env).code == 0
    before = uids(gptx)
    (gptx.cwd / "broken once").unlink()
    again = gptx.run("gptx.run", *arguments, "force=true", **env)
    assert again.code == 0, again.err
    assert not set(before.values()) & set(uids(gptx).values())
    assert [r["step"] for folder in gptx.folders() for r in records(folder, "resume")] == [10]
    limits = ["sweep.timeout=1e-3", "sweep.grace=1", "sweep.retry=0"]
    late = gptx.run("gptx.run", *arguments, "force=true", *limits, **env, PAUSE_AT="5")
    assert late.code == 1
    assert sorted(failures(late.err)) == ["kernel.how=none", "kernel.how=once"]
    assert "val loss" not in late.err, "the result of the replaced run is shown"
