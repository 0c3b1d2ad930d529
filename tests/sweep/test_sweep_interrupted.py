"""Sweeps that are cancelled, interrupted by Ctrl-C or killed, and resumed by the same command."""

import random
import signal
import subprocess
from pathlib import Path
from typing import TypeVar

import pytest
from command import DEADLINE, Gptx, Started, Terminal, equal_sweeps, records, send, until
from conftest import Maker
from in_process import sweep_arguments, sweep_here

from gptx.runs import journal
from gptx.sweep.__main__ import main

S = TypeVar("S", bound=Started)

GRID = ["attention=mha,gqa", "pos=rope,learned,none"]
PAUSE = {"PAUSE_AT": "15"}
TWO_RUNS = ["kernel=fragile", "seed=0,1", "sweep.jobs=1"]


def start_paused(gptx: Gptx, *overrides: str) -> "subprocess.Popen[str]":
    """Start a sweep, and wait until its first run pauses in step 15."""
    return paused(gptx, gptx.popen("gptx.run", *sweep_arguments(gptx, *overrides), **PAUSE, PAUSE_IN=str(gptx.cwd)))


def paused(gptx: Gptx, process: S) -> S:
    assert until(lambda: (gptx.cwd / "paused-0").exists(), process), process.communicate()
    return process


def statuses(gptx: Gptx) -> list[str]:
    return sorted(journal.status(folder) for folder in gptx.folders())


def read_until(process: "subprocess.Popen[str]", text: str) -> None:
    """Read stderr until a text appears."""
    assert process.stderr is not None
    output = ""
    while text not in output:
        line = process.stderr.readline()
        assert line, output
        output += line


def test_cancelled_sweep_is_resumed_by_the_same_command(gptx: Gptx, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--outputs", str(gptx.outputs)]
    arguments = sweep_arguments(gptx, f"paths.outputs={gptx.outputs}", *TWO_RUNS)
    sweep = paused(gptx, gptx.start_in_fork("gptx.run", *arguments, **PAUSE, PAUSE_IN=str(gptx.cwd)))
    assert main(["status", *at]) == 0
    output = capsys.readouterr().out
    assert "1 running, 1 waiting" in output and "step 14 of 30" in output
    second = sweep_here(gptx, *TWO_RUNS)
    assert second.code == 2 and f"is already being swept, by process {sweep.pid}" in second.err
    assert main(["cancel", *at]) == 0
    assert f"ending the sweep command (process {sweep.pid})" in capsys.readouterr().out
    (gptx.cwd / "go-after-signal").touch()
    _, err = sweep.communicate(timeout=DEADLINE)
    assert sweep.returncode == 75 and "[0/2] seed=0: stopped (checkpoint at step 15)" in err
    assert gptx.orphans() == [] and statuses(gptx) == ["interrupted"]  # the second run was not started
    assert main(["status", *at]) == 0
    output = capsys.readouterr().out
    assert "1 stopped, 1 not started" in output and "run the rest: python -m gptx.run" in output
    done = sweep_here(gptx, *TWO_RUNS)
    assert done.code == 0, done.err
    assert statuses(gptx) == ["finished"] * 2
    assert [record["step"] for folder in gptx.folders() for record in records(folder, "resume")] == [15]


# ---------------------------------------------------------------------------------------------------- second tier


@pytest.mark.full
def test_ctrl_c_saves_checkpoints_and_leaves_nothing_running(gptx: Gptx) -> None:
    sweep = start_paused(gptx, *TWO_RUNS)
    sweep.send_signal(signal.SIGINT)
    read_until(sweep, "stopping: ")
    (gptx.cwd / "go-after-signal").touch()
    _, err = sweep.communicate(timeout=DEADLINE)
    assert sweep.returncode == 130, err
    assert "Traceback" not in err and "[0/2] seed=0: stopped (checkpoint at step 15)" in err
    assert gptx.orphans() == [] and statuses(gptx) == ["interrupted"]


@pytest.mark.full
def test_ctrl_c_before_any_run_starts_is_reported_in_one_line(gptx: Gptx) -> None:
    terminal = Terminal(gptx, "gptx.run", *sweep_arguments(gptx, *GRID, "seed=0,1"))
    assert terminal.until(lambda: gptx.workers("forkserver")), terminal.shown
    terminal.press(b"\x03")
    assert terminal.end() == 130, terminal.shown
    assert [line for line in terminal.shown.splitlines() if line] == [
        "^Cgptx: interrupted; the same command resumes from the last checkpoint"
    ]
    assert gptx.orphans() == [] and gptx.folders() == []


@pytest.mark.full
def test_runs_of_a_killed_sweep_save_a_checkpoint_and_the_next_command_waits_for_them(gptx: Gptx) -> None:
    first = start_paused(gptx, *TWO_RUNS)
    first.kill()
    first.wait(DEADLINE)
    second = gptx.popen("gptx.run", *sweep_arguments(gptx, *TWO_RUNS))
    read_until(second, "waiting until it ends")
    (gptx.cwd / "go-after-signal").touch()
    _, err = second.communicate(timeout=DEADLINE)
    assert second.returncode == 0, err
    assert statuses(gptx) == ["finished"] * 2
    assert [record["step"] for folder in gptx.folders() for record in records(folder, "resume")] == [15]


def kill_at_random(gptx: Gptx, arguments: list[str], rng: random.Random, folders: int) -> None:
    """Start the sweep, and kill it with all its processes when more than ``folders`` runs have started and one is in
    the middle of its training."""
    running = gptx.popen("gptx.run", *arguments, SLOW="0.01")
    step = rng.randrange(1, 20)

    def is_training(folder: Path) -> bool:
        last = max((record["step"] for record in records(folder, "metrics")), default=0)
        return last >= step and journal.status(folder) == "running"

    assert until(lambda: len(gptx.folders()) > folders and any(map(is_training, gptx.folders())), running)
    victims = gptx.processes()
    rng.shuffle(victims)
    send(victims, signal.SIGKILL)
    running.communicate(timeout=DEADLINE)


@pytest.mark.full
@pytest.mark.parametrize("runs", [6, 12])
def test_sweep_killed_three_times_equals_an_undisturbed_one(make: Maker, runs: int) -> None:
    killed, undisturbed = make("killed"), make("undisturbed")
    overrides = ["kernel=fragile", *GRID, *(["window=full,sliding"] if runs == 12 else [])]
    assert sweep_here(undisturbed, *overrides).code == 0
    arguments, rng = sweep_arguments(killed, *overrides), random.Random(0)
    for folders in (0, runs // 4, runs // 2):
        kill_at_random(killed, arguments, rng, folders)
    last = killed.run("gptx.run", *arguments)
    assert last.code == 0, last.err
    equal_sweeps(killed, undisturbed, runs)


@pytest.mark.full
def test_ctrl_c_on_a_terminal_and_the_same_command_again(gptx: Gptx) -> None:
    """12 combinations; the terminal shows the dashboard; Ctrl-C comes during the third run."""
    grid = ["-m", *gptx.tiny, "attention=mha,gqa,mqa", "pos=learned,rope", "window=full,sliding"]
    terminal = Terminal(gptx, "gptx.run", *grid)
    assert terminal.until(lambda: "[3/12]" in terminal.shown)
    assert "running" in terminal.shown and "left" in terminal.shown
    terminal.press(b"\x03")
    assert terminal.end() == 130, terminal.shown
    assert "Traceback" not in terminal.shown
    assert gptx.orphans() == []
    finished = [folder for folder in gptx.folders() if (folder / "result.json").exists()]
    before = {folder.name: records(folder, "start")[0]["uid"] for folder in finished}
    done = gptx.run("gptx.run", *grid)
    assert done.code == 0, done.err
    assert len(gptx.folders()) == 12
    assert before.items() <= {f.name: records(f, "start")[0]["uid"] for f in gptx.folders()}.items()
