"""Whatever stops a run, the same command goes on, and ends with what an undisturbed run ends with."""

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
from fake_runs import ask, contents, database, rows_of, uid_of
from tiers import some

from gptx.cli import EXIT_RESUMABLE
from gptx.errors import CheckpointError
from gptx.runs import journal
from gptx.runs.checkpoint_files import clear, meta, steps
from gptx.tracking.mlflow_store import Store, store_uri
from gptx.tracking.ui_server import free_port, serve
from gptx.training.best_weights import load_best

ENDED_BY_CTRL_C = (130, -signal.SIGINT)  # the last of many may meet an interpreter that is closing


# ------------------------------------------------------------------------- stopped, one way after the other


class Life:
    """A run that is started again and again; each time it is held up at a step, and there something happens to it."""

    def __init__(self, gptx: Gptx, strategy: str) -> None:
        self.gptx, self.strategy = gptx, strategy
        self.err = ""

    def until(self, call: int) -> Started:
        """The command again, up to its so manieth step."""
        run = self.gptx.start(*words(self.strategy), **pausing(self.gptx, call))
        everybody = range(1 if self.strategy == "single" else 2)
        assert until(lambda: all(self.pid(rank) for rank in everybody), run), run.communicate()
        assert journal.status(self.gptx.folder) == "running"
        return run

    def pid(self, rank: int) -> int:
        """Of a process that waits; 0: it does not yet."""
        note = self.gptx.cwd / f"paused-{rank}"
        return int(note.read_text()) if note.exists() else 0

    def ends(self, run: Started, code: int, status: str) -> None:
        """What everybody waits for is there: the run ends, like this, and leaves no process."""
        (self.gptx.cwd / ("go-after-signal" if status == "interrupted" else "go")).touch()
        _, self.err = run.communicate(timeout=DEADLINE)
        assert run.returncode == code, self.err
        assert "Traceback" not in self.err and "elastic" not in self.err, self.err
        assert self.gptx.orphans() == []
        assert journal.status(self.gptx.folder) == status

    def resumed(self) -> list[int]:
        return [record["step"] for record in records(self.gptx.folder, "resume")]

    def steps(self) -> int:
        return int(json.loads((self.gptx.folder / "result.json").read_text())["steps"])


@pytest.mark.parametrize("strategy", some(["single", "ddp", "fsdp"], "single", "ddp"))
def test_a_run_goes_on_whatever_stops_it(gptx: Gptx, reference: Callable[..., Path], strategy: str) -> None:
    life = Life(gptx, strategy)

    run = life.until(5)  # before the first checkpoint
    run.kill()
    life.ends(run, -signal.SIGKILL, "killed")
    with open(gptx.folder / "journal.jsonl", "ab") as book:
        book.write(b'{"t":1,"kind":"metr')  # a kill may leave half a line

    run = life.until(17)
    run.send_signal(signal.SIGINT)
    life.ends(run, 130, "interrupted")
    assert life.err.splitlines()[-1].startswith("gptx: interrupted; the same command resumes")
    assert life.resumed() == [0]
    interrupted = life.steps()
    assert interrupted == 17 or (strategy != "single" and 17 < interrupted < STEPS)  # the step in hand was finished

    run = life.until(13)
    run.send_signal(signal.SIGTERM)
    life.ends(run, EXIT_RESUMABLE, "interrupted")
    assert life.resumed() == [0, interrupted]  # nothing was lost
    interrupted = life.steps()

    run = life.until(5)
    send(gptx.processes(), signal.SIGUSR2)  # a scheduler warns all of a job
    life.ends(run, EXIT_RESUMABLE, "interrupted")
    assert life.resumed()[2:] == [interrupted]
    interrupted = life.steps()

    if strategy != "single":
        run = life.until(1)
        psutil.Process(life.pid(1)).kill()
        life.ends(run, 1, "failed")
        assert "worker 1 (of 0..1) died (SIGKILL)" in life.err.splitlines()[-1]
        assert str(gptx.folder.name + "/logs/rank-0001.log") in life.err.splitlines()[-1]
        assert life.resumed()[3:] == [interrupted]

    run = life.until(25)
    run.kill()
    life.ends(run, -signal.SIGKILL, "killed")
    before, newest = [int(path.name[5:]) for path in steps(gptx.folder / "checkpoints")[-2:]]
    flip(gptx.folder / f"checkpoints/step-{newest:08d}/__0_0.distcp")

    done = gptx(*words(strategy))
    assert done.code == 0, done.err
    assert done.err.count(f"checkpoint step-{newest:08d} is damaged") == 1
    assert f"step-{newest:08d} is damaged" in records(gptx.folder, "event")[-1]["text"]
    assert life.resumed()[-1] == before
    same(gptx.folder, reference(strategy))


def deaf(process: psutil.Process) -> bool:
    """Whether a scheduler's warning has to wait until the process listens."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return bool(int(status["SigBlk"], 16) >> (signal.SIGUSR2 - 1) & 1)


@pytest.mark.skipif(not Path("/proc").exists(), reason="only Linux tells what a process blocks")
@pytest.mark.parametrize("strategy", some(["single", "ddp"], "single"))
def test_a_warning_before_the_first_step_kills_nobody(gptx: Gptx, strategy: str) -> None:
    """Of the command, before torch is loaded; and of workers that are only starting."""
    run = gptx.start_cold(*words(strategy), **pausing(gptx, 1))

    def ready() -> bool:
        if strategy == "ddp":
            return len(gptx.workers()) == 2
        return deaf(psutil.Process(run.pid)) or (gptx.cwd / "paused-0").exists()

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
def test_a_lost_worker_is_started_again(
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


def test_restarts_are_for_lost_workers_and_not_for_ever(gptx: Gptx) -> None:
    fragile = [*OWN_CONF, "kernel=fragile", "strategy=ddp", "strategy.restarts=1"]
    done = gptx(*fragile, RAISE_AT="5", RAISE_RANK="1")
    assert done.code == 1
    first, last = done.err.splitlines()
    assert "worker 1 (of 0..1) failed: RuntimeError: the kernel broke; see " in last
    assert first.startswith(last.removesuffix(" ")) and "strategy.restarts: 0 left" in first
    log = Path(last.partition("; see ")[2])
    assert (gptx.cwd / log).read_text().count("Traceback") == 2
    assert len(records(gptx.folder, "resume")) == 1
    assert "the kernel broke" in str(records(gptx.folder, "end")[-1]["error"])

    done = gptx(*fragile, "trainer.max_skips=0", "seed=1", NAN_AT="3")  # what gptx knows comes again
    assert done.code == 1 and "the gradient was not finite" in done.err.splitlines()[-1]
    assert "strategy.restarts" not in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("moment", some(["while it trains", "while the workers start"], "while it trains"))
def test_ctrl_c_on_a_terminal(gptx: Gptx, moment: str) -> None:
    """The terminal sends SIGINT to every process of the group: workers get it twice, from it and from their parent."""
    starts = moment == "while the workers start"
    environment = pausing(gptx, 1 if starts else 17)
    terminal = Terminal(gptx, "gptx.run", *OWN_CONF, *gptx.tiny, *words("ddp")[2:], **environment)
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
def test_ctrl_c_again_and_again_does_not_wait_for_the_step_in_hand(gptx: Gptx, strategy: str) -> None:
    terminal = Terminal(gptx, "gptx.run", *gptx.tiny, *words(strategy), **pausing(gptx, 17))
    waiting = range(1 if strategy == "single" else 2)
    assert terminal.until(lambda: all((gptx.cwd / f"paused-{rank}").exists() for rank in waiting)), terminal.shown

    def insist() -> bool:
        terminal.press(b"\x03")
        return "the same command resumes" in terminal.shown

    assert terminal.until(insist), terminal.shown
    assert terminal.end() in ENDED_BY_CTRL_C, terminal.shown
    assert "Traceback" not in terminal.shown, terminal.shown
    assert gptx.orphans() == []
    assert journal.status(gptx.folder) == "interrupted"


@pytest.mark.full
@pytest.mark.parametrize("work", ["signalled_at_the_end", "enters_and_exits_ddp_repeatedly"])
def test_a_worker_ends_well(gptx: Gptx, work: str) -> None:
    """Though a signal comes when its work is done; though one of gloo's threads is dropping a tensor."""
    done = gptx.run("launched", work, str(gptx.cwd))
    assert (done.code, done.out) == (0, "0\n"), done.err


def test_a_worker_that_hangs_does_not_outlive_its_peer(gptx: Gptx) -> None:
    done = gptx.run("launched", "hangs_when_its_peer_dies", str(gptx.cwd))
    assert done.code == 1
    assert "WorkerLost: worker 1 (of 0..1) died (SIGKILL)" in done.err.splitlines()[-1]


@pytest.mark.parametrize("strategy", some(["single", "ddp"], "single"))
def test_nohup_outlives_the_terminal(gptx: Gptx, reference: Callable[..., Path], strategy: str) -> None:
    run = gptx.start_under("nohup", *words(strategy), **pausing(gptx, 17))
    assert until(lambda: (gptx.cwd / "paused-0").exists(), run), run.communicate()
    send(gptx.processes(), signal.SIGHUP)
    (gptx.cwd / "go").touch()
    assert run.wait(DEADLINE) == 0, run.communicate()
    same(gptx.folder, reference(strategy))


@pytest.mark.full
def test_an_interrupted_run_does_not_make_one_wait_for_mlflow(gptx: Gptx) -> None:
    """A third Ctrl-C, when all is written down, leaves the rest to a sync."""
    away = ["tracking=mlflow", "tracking.uri=http://127.0.0.1:9", "tracking.wait=1e6"]
    run = gptx.start(*words("single"), *away, **pausing(gptx, 17))
    assert until(lambda: (gptx.cwd / "paused-0").exists(), run), run.communicate()
    for number in (signal.SIGTERM, signal.SIGINT):  # two alike might be taken as one
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


def test_machines_that_share_no_folder_are_told_so(make: Maker) -> None:
    """Each would go on from another step, with other weights, and nobody would see it."""
    first, second = make("first machine"), make("second machine")
    run = first.start(*words("ddp", 0.0), "strategy.nproc=1", **pausing(first, 17))
    assert until(lambda: (first.cwd / "paused-0").exists(), run), run.communicate()
    run.send_signal(signal.SIGINT)
    (first.cwd / "go-after-signal").touch()
    _, err = run.communicate(timeout=DEADLINE)
    assert run.returncode == 130, err

    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(unused_port()), "WORLD_SIZE": "2"}
    both = [one.start(*words("ddp", 0.0), **world, RANK=str(rank)) for rank, one in enumerate((first, second))]
    said = [one.communicate(timeout=DEADLINE)[1] for one in both]
    assert [one.returncode for one in both] == [1, 1]
    assert all("different checkpoints" in err and "all machines share" in err for err in said), said
    assert first.orphans() == second.orphans() == []

    done = first(*words("ddp", 0.0))  # on one machine again; the other number of processes is told
    assert done.code == 0, done.err
    assert "processes 1 -> 2" in done.err and "not bitwise reproducible" in done.err


def test_two_of_the_same_command_at_once(gptx: Gptx, reference: Callable[..., Path]) -> None:
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


def test_killed_between_the_end_and_its_result(gptx: Gptx) -> None:
    """The journal is the truth: result.json can be had from it."""
    assert gptx().code == 0
    result = gptx.folder / "result.json"
    written, book = result.read_text(), (gptx.folder / "journal.jsonl").read_bytes()
    result.unlink()
    again = gptx()
    assert (again.code, again.err) == (0, "")
    assert result.read_text() == written
    assert (gptx.folder / "journal.jsonl").read_bytes() == book


@pytest.mark.parametrize("how", ["a bit", "the end", "the checksum", "all"])
def test_damage_is_seen(reference: Callable[..., Path], tmp_path: Path, how: str) -> None:
    """Of a checkpoint, and of the best model."""
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
    told: list[str] = []
    clear(folder, told.append)
    assert len(told) == 1 and newest.name in told[0]
    assert [path.name for path in steps(folder)] == [before.name]
    assert meta(before).step == int(before.name[5:])
    if how != "the checksum":
        with pytest.raises(CheckpointError):
            load_best(folder)


# ------------------------------------------------------------------------------ random moments


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp"])
def test_twenty_kills_at_random_moments(gptx: Gptx, reference: Callable[..., Path], strategy: str) -> None:
    """Kill -9 of the command, or of a worker, some records on, or while a checkpoint or the result is written.

    A run that was faster than its killer is finished and has to be right; the kills go on with another.
    """
    rng = random.Random(f"kills of {strategy}")
    kills, lives = 0, 1
    while kills < 20:
        life = Struck(gptx, strategy, lives)
        if life.strike(rng, tracked=kills % 6 == 5):
            kills += 1
        else:
            lives += 1
    for number in range(1, lives + 1):
        done = gptx(*Struck(gptx, strategy, number).words(tracked=number == lives))
        assert done.code == 0, done.err
    assert gptx.orphans() == []  # the MLflow followers of killed runs, too, end by themselves
    synced = gptx.run("gptx.sync", "outputs")
    assert synced.code == 0, synced.err
    for number in range(1, lives + 1):
        folder = Struck(gptx, strategy, number).folder
        same(folder, reference(strategy, 0.0))
        found = contents(database(gptx.outputs), uid_of(folder))
        rows = [(key, step, t) for key, _, _, t, step in found["metrics"] if not key.startswith("final/")]
        assert sorted(rows) == sorted(rows_of(folder))
        assert found["status"] == "FINISHED"
        assert found["models"] == [(1,)]


class Struck:
    """One life of the run: the study names it, which is no part of what it computes."""

    def __init__(self, gptx: Gptx, strategy: str, number: int) -> None:
        self.gptx, self.strategy, self.study = gptx, strategy, f"life{number}"

    def words(self, tracked: bool) -> list[str]:
        tracking = ["tracking=mlflow", f"tracking.follow={str(tracked).lower()}"]
        return [*words(self.strategy, 0.0), f"study={self.study}", *tracking]

    @property
    def folder(self) -> Path:
        [folder] = journal.runs(self.gptx.outputs / self.study)
        return folder

    def strike(self, rng: random.Random, tracked: bool) -> bool:
        """One attempt and a kill; False: it was finished before that."""
        begun = self.size()
        on = rng.randint(1, 30)
        moment = rng.choice(
            [
                lambda: self.size() > begun,
                lambda: self.size() >= begun + on,
                lambda: self.size() >= begun + on,
                lambda: self.size() > begun and self.there("checkpoints/.step-*.part"),
                lambda: self.size() > begun and self.there("samples"),
            ]
        )
        run = self.gptx.start(*self.words(tracked))
        reached = until(moment, run)
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

    def there(self, pattern: str) -> bool:
        return any((self.gptx.outputs / self.study).glob(f"*/{pattern}"))

    def size(self) -> int:
        """Lines of the journal."""
        return sum(path.read_bytes().count(b"\n") for path in (self.gptx.outputs / self.study).glob("*/journal.jsonl"))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # mlflow's own
def test_a_server_that_dies_while_a_run_trains(gptx: Gptx, reference: Callable[..., Path]) -> None:
    """The run does not wait for it: between its death and its return it trains to the end."""
    served = gptx.cwd / "server"
    Store(served)  # makes its database
    port = free_port("127.0.0.1", 5600)

    def rows() -> int:
        return int(ask(database(served), "select count(*) from metrics")[0][0])

    tracked = ["tracking=mlflow", f"tracking.uri=http://127.0.0.1:{port}", "tracking.wait=200"]
    with serve(served, store_uri(served, ""), "127.0.0.1", port):
        run = gptx.start(*words("single"), *tracked, **pausing(gptx, 57))
        assert until(lambda: rows() > 0, run), run.communicate()
        assert until(lambda: (gptx.cwd / "paused-0").exists(), run), run.communicate()
    (gptx.cwd / "go").touch()
    assert until(lambda: journal.status(gptx.folder) == "finished", run), run.communicate()
    assert run.poll() is None  # it is the follower that is waited for
    with serve(served, store_uri(served, ""), "127.0.0.1", port):
        _, err = run.communicate(timeout=DEADLINE)
    assert run.returncode == 0 and "gptx:" not in err, err
    same(gptx.folder, reference("single"))
    found = contents(database(served), uid_of(gptx.folder))
    assert {(key, step, t) for key, _, _, t, step in found["metrics"] if key[:5] != "final"} == rows_of(gptx.folder)
    assert (found["status"], found["models"]) == ("FINISHED", [(1,)])


@pytest.mark.full
def test_eight_runs_that_start_at_the_same_moment(gptx: Gptx) -> None:
    """On an empty outputs/: they share the making of token files and of the MLflow store, and lose nothing."""
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
