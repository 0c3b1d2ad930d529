"""A run that was killed, interrupted or failed resumes with the same command and ends like an undisturbed run."""

import contextlib
import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from command import (
    DEADLINE,
    OWN_CONF,
    STEPS,
    Gptx,
    Started,
    Terminal,
    flip,
    pausing,
    records,
    same,
    send,
    the_first,
    until,
    unused_port,
    words,
)
from conftest import Maker
from fake_runs import contents, database, metric_rows, rows_of, uid_of
from tiers import some

from gptx.cli import EXIT_RESUMABLE
from gptx.errors import CheckpointError
from gptx.runs import journal
from gptx.runs.checkpoint_files import clear, meta, steps
from gptx.tracking.mlflow_connection import Store, store_uri
from gptx.tracking.ui_server import free_port, serve
from gptx.training.best_weights import load_best

ENDED_BY_CTRL_C = (130, -signal.SIGINT)  # the last of several Ctrl-C may arrive while the interpreter exits


# ------------------------------------------------------------------------- signals and lost workers


class RestartedRun:
    """A run that a test starts several times. Each attempt pauses in a step, and is stopped there."""

    def __init__(self, gptx: Gptx, strategy: str) -> None:
        self.gptx, self.strategy = gptx, strategy
        self.err = ""

    def start_and_pause(self, step: int) -> Started:
        """Start the same command and wait until all its processes pause in their n-th step."""
        run = self.gptx.start(*words(self.strategy), **pausing(self.gptx, step))
        ranks = range(1 if self.strategy == "single" else 2)
        assert until(lambda: all(self.paused_pid(rank) for rank in ranks), run), run.communicate()
        assert journal.status(self.gptx.folder) == "running"
        return run

    def paused_pid(self, rank: int) -> int:
        """The process id of a paused rank, or 0 if it has not paused yet."""
        note = self.gptx.cwd / f"paused-{rank}"
        return int(note.read_text()) if note.exists() else 0

    def check_end(self, run: Started, code: int, status: str) -> None:
        """Let the paused processes continue; the run ends with this exit code and status and leaves no process."""
        (self.gptx.cwd / ("go-after-signal" if status == "interrupted" else "go")).touch()
        _, self.err = run.communicate(timeout=DEADLINE)
        assert run.returncode == code, self.err
        assert "Traceback" not in self.err and "elastic" not in self.err, self.err
        assert self.gptx.orphans() == []
        assert journal.status(self.gptx.folder) == status

    def resumed_steps(self) -> list[int]:
        return [record["step"] for record in records(self.gptx.folder, "resume")]

    def result_steps(self) -> int:
        return int(json.loads((self.gptx.folder / "result.json").read_text())["steps"])


@pytest.mark.parametrize("strategy", some(["single", "ddp", "fsdp"], "single", "ddp"))
def test_run_resumes_after_kills_signals_a_lost_worker_and_a_damaged_checkpoint(
    gptx: Gptx, reference: Callable[..., Path], strategy: str
) -> None:
    attempts = RestartedRun(gptx, strategy)

    run = attempts.start_and_pause(5)  # before the first checkpoint
    run.kill()
    attempts.check_end(run, -signal.SIGKILL, "killed")
    with open(gptx.folder / "journal.jsonl", "ab") as file:
        file.write(b'{"t":1,"kind":"metr')  # a kill may leave an incomplete line

    run = attempts.start_and_pause(17)
    run.send_signal(signal.SIGINT)
    attempts.check_end(run, 130, "interrupted")
    assert attempts.err.splitlines()[-1].startswith("gptx: interrupted; the same command resumes")
    assert attempts.resumed_steps() == [0]
    interrupted = attempts.result_steps()
    assert interrupted == 17 or (strategy != "single" and 17 < interrupted < STEPS)  # the current step was finished

    run = attempts.start_and_pause(13)
    run.send_signal(signal.SIGTERM)
    attempts.check_end(run, EXIT_RESUMABLE, "interrupted")
    assert attempts.resumed_steps() == [0, interrupted]  # no step was lost
    interrupted = attempts.result_steps()

    run = attempts.start_and_pause(5)
    send(gptx.processes(), signal.SIGUSR2)  # a scheduler sends its warning to all processes of a job
    attempts.check_end(run, EXIT_RESUMABLE, "interrupted")
    assert attempts.resumed_steps()[2:] == [interrupted]
    interrupted = attempts.result_steps()

    if strategy != "single":
        run = attempts.start_and_pause(1)
        psutil.Process(attempts.paused_pid(1)).kill()
        attempts.check_end(run, 1, "failed")
        assert "worker 1 (of 0..1) died (SIGKILL)" in attempts.err.splitlines()[-1]
        assert str(gptx.folder.name + "/logs/rank-0001.log") in attempts.err.splitlines()[-1]
        assert attempts.resumed_steps()[3:] == [interrupted]

    run = attempts.start_and_pause(25)
    run.kill()
    attempts.check_end(run, -signal.SIGKILL, "killed")
    before, newest = [int(path.name[5:]) for path in steps(gptx.folder / "checkpoints")[-2:]]
    flip(gptx.folder / f"checkpoints/step-{newest:08d}/__0_0.distcp")

    done = gptx(*words(strategy))
    assert done.code == 0, done.err
    assert done.err.count(f"checkpoint step-{newest:08d} is damaged") == 1
    assert f"step-{newest:08d} is damaged" in records(gptx.folder, "event")[-1]["text"]
    assert attempts.resumed_steps()[-1] == before
    same(gptx.folder, reference(strategy))


def blocks_warning(process: psutil.Process) -> bool:
    """Whether the process blocks SIGUSR2, the warning of a scheduler."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return bool(int(status["SigBlk"], 16) >> (signal.SIGUSR2 - 1) & 1)


@pytest.mark.skipif(not Path("/proc").exists(), reason="only Linux shows which signals a process blocks")
@pytest.mark.parametrize("strategy", some(["single", "ddp"], "single"))
def test_sigusr2_before_the_first_step_interrupts_the_run(gptx: Gptx, strategy: str) -> None:
    """The signal arrives before the command has loaded torch, or while the workers start."""
    run = gptx.start_cold(*words(strategy), **pausing(gptx, 1))

    def ready() -> bool:
        if strategy == "ddp":
            return len(gptx.workers()) == 2
        return blocks_warning(psutil.Process(run.pid)) or (gptx.cwd / "paused-0").exists()

    assert until(ready, run), run.communicate()
    send(gptx.processes(), signal.SIGUSR2)
    (gptx.cwd / "go").touch()
    _, err = run.communicate(timeout=DEADLINE)
    assert run.returncode == EXIT_RESUMABLE, err
    assert err.splitlines()[-1].startswith("gptx: interrupted; the same command resumes")
    assert journal.status(gptx.folder) == "interrupted"
    if strategy == "single":
        assert [path.name for path in steps(gptx.folder / "checkpoints")] == ["step-00000001"]


LOST = [("ddp", signal.SIGKILL), ("fsdp", signal.SIGSEGV)]


@pytest.mark.parametrize(("strategy", "number"), some(LOST, LOST[0]))
def test_lost_worker_is_restarted(
    gptx: Gptx, reference: Callable[..., Path], strategy: str, number: signal.Signals
) -> None:
    run = gptx.start(*words(strategy), "strategy.restarts=2", **pausing(gptx, 17))
    assert until(lambda: (gptx.cwd / "paused-1").exists(), run), run.communicate()
    the_first(gptx)
    psutil.Process(int((gptx.cwd / "paused-1").read_text())).send_signal(number)
    (gptx.cwd / "go").touch()
    _, err = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0, err
    [event] = records(gptx.folder, "event")
    assert f"worker 1 (of 0..1) died ({number.name})" in event["text"] and event["text"] in err
    assert "strategy.restarts: 1 left" in event["text"]
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]
    log = (gptx.folder / "logs" / "rank-0001.log").read_text()
    assert log.count("--- ") == 2  # a line for each attempt
    assert ("Segmentation fault" in log) == (number == signal.SIGSEGV)
    same(gptx.folder, reference(strategy))


def test_restarts_are_limited_and_not_used_for_errors_of_gptx(gptx: Gptx) -> None:
    fragile = [*OWN_CONF, "kernel=fragile", "strategy=ddp", "strategy.restarts=1"]
    done = gptx(*fragile, RAISE_AT="5", RAISE_RANK="1")
    assert done.code == 1
    first, last = (line for line in done.err.splitlines() if line.startswith("gptx: "))
    assert "worker 1 (of 0..1) failed: RuntimeError: the kernel broke; see " in last
    assert first.startswith(last.removesuffix(" ")) and "strategy.restarts: 0 left" in first
    log = Path(last.partition("; see ")[2])
    assert (gptx.cwd / log).read_text().count("Traceback") == 2
    assert len(records(gptx.folder, "resume")) == 1
    assert "the kernel broke" in str(records(gptx.folder, "end")[-1]["error"])

    done = gptx(*fragile, "trainer.max_skips=0", "seed=1", NAN_AT="3")  # an error of gptx itself would be raised again
    assert done.code == 1 and "the gradient was not finite" in done.err.splitlines()[-1]
    assert "strategy.restarts:" not in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("moment", some(["while it trains", "while the workers start"], "while it trains"))
def test_ctrl_c_on_a_terminal(gptx: Gptx, moment: str) -> None:
    """The terminal sends SIGINT to every process of the group: workers get it twice, from it and from their parent."""
    starts = moment == "while the workers start"
    environment = pausing(gptx, 1 if starts else 17)
    terminal = Terminal(
        gptx, "gptx.run", *OWN_CONF, *gptx.tiny, *words("ddp")[2:], warm=not starts, **environment
    )  # a fork does not import anything while it starts
    ready = (lambda: len(gptx.workers()) == 2) if starts else (lambda: (gptx.cwd / "paused-0").exists())
    assert terminal.until(ready), terminal.shown
    terminal.press(b"\x03")
    (gptx.cwd / ("go" if starts else "go-after-signal")).touch()
    assert terminal.end() == 130, terminal.shown
    shown = terminal.shown.replace("\r", "")
    assert "interrupted; the same command resumes" in shown
    assert "Traceback" not in shown and "death signal" not in shown, shown
    assert gptx.orphans() == []
    assert journal.status(gptx.folder) == "interrupted"


@pytest.mark.parametrize("strategy", some(["single", "ddp"], "single"))
def test_repeated_ctrl_c_does_not_wait_for_the_current_step(gptx: Gptx, strategy: str) -> None:
    terminal = Terminal(gptx, "gptx.run", *gptx.tiny, *words(strategy), warm=True, **pausing(gptx, 17))
    ranks = range(1 if strategy == "single" else 2)
    assert terminal.until(lambda: all((gptx.cwd / f"paused-{rank}").exists() for rank in ranks)), terminal.shown

    def press_again() -> bool:
        terminal.press(b"\x03")
        return "the same command resumes" in terminal.shown

    assert terminal.until(press_again), terminal.shown
    assert terminal.end() in ENDED_BY_CTRL_C, terminal.shown
    assert "Traceback" not in terminal.shown, terminal.shown
    assert gptx.orphans() == []
    assert journal.status(gptx.folder) == "interrupted"


@pytest.mark.full
def test_worker_exits_without_error_after_many_process_groups(gptx: Gptx) -> None:
    done = gptx.run("launched", "enters_and_exits_ddp_repeatedly", str(gptx.cwd))
    assert (done.code, done.out) == (0, "0\n"), done.err


@pytest.mark.parametrize("work", ["signalled_at_the_end", "aborts_if_the_interpreter_is_finalized"])
def test_worker_that_has_finished_its_work_is_not_lost(gptx: Gptx, work: str) -> None:
    done = gptx.run("launched", work, str(gptx.cwd), by=gptx.warm)
    assert (done.code, done.out.splitlines()[-1]) == (0, "0"), done.err
    if work.startswith("aborts"):
        assert "trained" in done.out and "trained" in (gptx.cwd / "logs" / "rank-0001.log").read_text()


def test_hanging_worker_is_killed_after_its_peer_died(gptx: Gptx) -> None:
    done = gptx.run("launched", "hangs_when_its_peer_dies", str(gptx.cwd), by=gptx.warm)
    assert done.code == 1
    assert "WorkerLost: worker 1 (of 0..1) died (SIGKILL)" in done.err.splitlines()[-1]


@pytest.mark.parametrize("strategy", some(["single", "ddp"], "single"))
def test_run_under_nohup_ignores_sighup(gptx: Gptx, reference: Callable[..., Path], strategy: str) -> None:
    run = gptx.start_under("nohup", *words(strategy), **pausing(gptx, 17))
    assert until(lambda: (gptx.cwd / "paused-0").exists(), run), run.communicate()
    send(gptx.processes(), signal.SIGHUP)
    (gptx.cwd / "go").touch()
    assert run.wait(DEADLINE) == 0, run.communicate()
    same(gptx.folder, reference(strategy))


@pytest.mark.full
def test_another_ctrl_c_ends_the_wait_for_mlflow(gptx: Gptx) -> None:
    """After the end record is written, another Ctrl-C ends the upload; `gptx.sync` can complete it."""
    unreachable = ["tracking=mlflow", "tracking.uri=http://127.0.0.1:9", "tracking.wait=1e6"]
    run = gptx.start(*words("single"), *unreachable, **pausing(gptx, 17))
    assert until(lambda: (gptx.cwd / "paused-0").exists(), run), run.communicate()
    for number in (signal.SIGTERM, signal.SIGINT):  # two equal signals might be merged into one
        run.send_signal(number)
    assert until(lambda: journal.status(gptx.folder) == "interrupted", run)

    def ended() -> bool:
        run.send_signal(signal.SIGINT)
        return run.poll() is not None

    assert until(ended)
    assert run.returncode in (EXIT_RESUMABLE, *ENDED_BY_CTRL_C)
    _, err = run.communicate()
    assert "the same command resumes" in err and "run: gptx sync outputs --uri http://127.0.0.1:9" in err
    assert "Traceback" not in err


def test_machines_without_a_shared_folder_are_rejected(make: Maker) -> None:
    """Otherwise each machine would resume from a different step with different weights, without a message."""
    first, second = make("first machine"), make("second machine")
    run = first.start(*words("ddp", 0.0), "strategy.nproc=1", **pausing(first, 17))
    assert until(lambda: (first.cwd / "paused-0").exists(), run), run.communicate()
    run.send_signal(signal.SIGINT)
    (first.cwd / "go-after-signal").touch()
    _, err = run.communicate(timeout=DEADLINE)
    assert run.returncode == 130, err

    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(unused_port()), "WORLD_SIZE": "2"}
    both = [one.start(*words("ddp", 0.0), **world, RANK=str(rank)) for rank, one in enumerate((first, second))]
    errors = [one.communicate(timeout=DEADLINE)[1] for one in both]
    assert [one.returncode for one in both] == [1, 1]
    assert all("different checkpoints" in err and "all machines share" in err for err in errors), errors
    assert first.orphans() == second.orphans() == []

    done = first(*words("ddp", 0.0))  # on one machine, with a message about the changed number of processes
    assert done.code == 0, done.err
    assert "processes 1 -> 2" in done.err and "not bitwise reproducible" in done.err


def test_second_start_of_a_running_command_is_rejected(gptx: Gptx, reference: Callable[..., Path]) -> None:
    first = gptx.start(*words("single"), **pausing(gptx, 57))
    assert until(lambda: (gptx.cwd / "paused-0").exists(), first), first.communicate()
    before = (gptx.folder / "journal.jsonl").read_bytes()
    for more in ([], ["force=true"]):
        second = gptx(*words("single"), *more)
        assert second.code == 2
        [line] = second.err.splitlines()
        assert line.startswith("gptx: ") and "is already being trained" in line and f"process {first.pid}" in line
    assert (gptx.folder / "journal.jsonl").read_bytes() == before
    (gptx.cwd / "go").touch()
    first.communicate(timeout=DEADLINE)
    assert first.returncode == 0
    same(gptx.folder, reference("single"))


def test_missing_result_json_is_rewritten_from_the_journal(gptx: Gptx) -> None:
    """As after a kill between the end record and result.json."""
    assert gptx().code == 0
    result = gptx.folder / "result.json"
    written, journal_bytes = result.read_text(), (gptx.folder / "journal.jsonl").read_bytes()
    result.unlink()
    again = gptx()
    assert (again.code, again.err) == (0, "")
    assert result.read_text() == written
    assert (gptx.folder / "journal.jsonl").read_bytes() == journal_bytes


@pytest.mark.parametrize("how", ["a bit", "the end", "the checksum", "all"])
def test_damaged_checkpoint_and_best_weights_are_detected(
    reference: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    """A bit is flipped, the end of the files or the checksum is missing, or the files are missing."""
    folder = Path(shutil.copytree(reference("single") / "checkpoints", tmp_path / "checkpoints"))
    before, newest = steps(folder)
    for path in (newest / "__0_0.distcp", folder / "best" / "model.safetensors"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes({"a bit": data, "the end": data[:-9]}.get(how, path.read_bytes()))
    if how == "the checksum":
        (newest / "meta.json").unlink()
    if how == "all":
        (newest / "__0_0.distcp").unlink()
        (folder / "best" / "model.safetensors").unlink()
    messages: list[str] = []
    clear(folder, messages.append)
    assert len(messages) == 1 and newest.name in messages[0]
    assert [path.name for path in steps(folder)] == [before.name]
    assert meta(before).step == int(before.name[5:])
    if how != "the checksum":
        with pytest.raises(CheckpointError):
            load_best(folder)


# ------------------------------------------------------------------------------ kills at random times


@pytest.mark.full
@pytest.mark.parametrize(("strategy", "count"), [("single", 20), ("ddp", 12), ("fsdp", 12)])
def test_run_equals_undisturbed_run_after_many_kills_at_random_times(
    gptx: Gptx, reference: Callable[..., Path], strategy: str, count: int
) -> None:
    """SIGKILL of the command or of a worker, after some journal records or while a checkpoint or sample is written.

    If a run finishes before it is killed, its result is checked too, and the kills continue with another run.
    """
    rng = random.Random(f"kills of {strategy}")
    kills, n_runs = 0, 1
    while kills < count:
        run = KilledRun(gptx, strategy, n_runs)
        if run.start_and_kill(rng, tracked=kills % 6 == 5):
            kills += 1
        else:
            n_runs += 1
    for number in range(1, n_runs + 1):
        done = gptx(*KilledRun(gptx, strategy, number).overrides(tracked=number == n_runs))
        assert done.code == 0, done.err
    assert gptx.orphans() == []  # the MLflow followers of killed runs end by themselves too
    synced = gptx.run("gptx.sync", "outputs")
    assert synced.code == 0, synced.err
    for number in range(1, n_runs + 1):
        folder = KilledRun(gptx, strategy, number).folder
        same(folder, reference(strategy, 0.0))
        found = contents(database(gptx.outputs), uid_of(folder))
        rows = [(key, step, t) for key, _, _, t, step in found["metrics"] if not key.startswith("final/")]
        assert sorted(rows) == sorted(rows_of(folder))
        assert found["status"] == "FINISHED"
        assert found["models"] == [(1,)]


class KilledRun:
    """A run that is killed at random times. Runs differ only in their study, which does not change the results."""

    def __init__(self, gptx: Gptx, strategy: str, number: int) -> None:
        self.gptx, self.strategy, self.study = gptx, strategy, f"run{number}"

    def overrides(self, tracked: bool) -> list[str]:
        tracking = ["tracking=mlflow", f"tracking.follow={str(tracked).lower()}"]
        return [*words(self.strategy, 0.0), f"study={self.study}", *tracking]

    @property
    def folder(self) -> Path:
        [folder] = journal.runs(self.gptx.outputs / self.study)
        return folder

    def start_and_kill(self, rng: random.Random, tracked: bool) -> bool:
        """Start the run and kill it. Return False if it finished first."""
        lines_before = self.journal_lines()
        more = rng.randint(1, 30)
        condition = rng.choice(
            [
                lambda: self.journal_lines() > lines_before,
                lambda: self.journal_lines() >= lines_before + more,
                lambda: self.journal_lines() >= lines_before + more,
                lambda: self.journal_lines() > lines_before and self.has_file("checkpoints/.step-*.part"),
                lambda: self.journal_lines() > lines_before and self.has_file("samples"),
            ]
        )
        run = self.gptx.start(*self.overrides(tracked))
        reached = until(condition, run)
        workers = self.gptx.workers() if self.strategy != "single" else []
        victim = rng.choice([psutil.Process(run.pid), *workers]) if reached and run.poll() is None else None
        if victim is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        _, err = run.communicate(timeout=DEADLINE)
        assert until(lambda: not self.gptx.workers())
        if run.returncode == 0:
            return False
        assert victim is not None, err
        assert run.returncode == (-signal.SIGKILL if victim.pid == run.pid else 1), err
        return True

    def has_file(self, pattern: str) -> bool:
        return any((self.gptx.outputs / self.study).glob(f"*/{pattern}"))

    def journal_lines(self) -> int:
        return sum(path.read_bytes().count(b"\n") for path in (self.gptx.outputs / self.study).glob("*/journal.jsonl"))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # from mlflow
def test_run_finishes_training_while_its_mlflow_server_is_down(gptx: Gptx, reference: Callable[..., Path]) -> None:
    """The run does not wait for the server, which is stopped during training and started again after it."""
    served = gptx.cwd / "server"
    Store(served)  # creates its database
    port = free_port("127.0.0.1", 5600)

    tracked = ["tracking=mlflow", f"tracking.uri=http://127.0.0.1:{port}", "tracking.wait=200"]
    with serve(served, store_uri(served, ""), "127.0.0.1", port):
        run = gptx.start(*words("single"), *tracked, **pausing(gptx, 57))
        assert until(lambda: metric_rows(database(served)) > 0, run), run.communicate()
        assert until(lambda: (gptx.cwd / "paused-0").exists(), run), run.communicate()
    (gptx.cwd / "go").touch()
    assert until(lambda: journal.status(gptx.folder) == "finished", run), run.communicate()
    assert run.poll() is None  # it waits for the follower
    with serve(served, store_uri(served, ""), "127.0.0.1", port):
        _, err = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0 and "gptx:" not in err, err
    same(gptx.folder, reference("single"))
    found = contents(database(served), uid_of(gptx.folder))
    assert {(key, step, t) for key, _, _, t, step in found["metrics"] if key[:5] != "final"} == rows_of(gptx.folder)
    assert (found["status"], found["models"]) == ("FINISHED", [(1,)])


@pytest.mark.full
def test_eight_runs_started_at_the_same_time(gptx: Gptx) -> None:
    """In an empty outputs/: the token files and the MLflow store are created once, and no row is lost."""
    more = ["paths.data=outputs/.data", "tracking=mlflow", "tracking.wait=200"]
    runs = [gptx.start(*more, f"seed={seed}") for seed in range(8)]
    for run in runs:
        _, err = run.communicate(timeout=2 * DEADLINE)
        assert run.returncode == 0, err
        assert "Traceback" not in err and "gptx:" not in err
    folders = list(gptx.folders())
    assert len(folders) == 8
    for folder in folders:
        found = contents(database(gptx.outputs), uid_of(folder))
        assert {(key, step, t) for key, _, _, t, step in found["metrics"] if key[:5] != "final"} == rows_of(folder)
        assert (found["status"], found["models"]) == ("FINISHED", [(1,)])
    assert len(list((gptx.outputs / ".data").glob("*.lock"))) == 1
