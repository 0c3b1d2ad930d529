"""Whatever a run is stopped by, the same command goes on, and what it ends with is what an undisturbed run ends with."""

import json
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from command import DEADLINE, OWN, Gptx, Terminal, records, same, until
from conftest import Maker

from gptx import journal
from gptx.checkpoint import latest, load_best, set_damaged_aside, steps
from gptx.errors import CheckpointError

STEPS = 200
OWN_CONF = ("--config-dir", str(OWN / "conf"))


def words(strategy: str, dropout: float = 0.1) -> list[str]:
    """A run that can be held up at a step: 200 steps, a checkpoint after every tenth."""
    return [
        *OWN_CONF,
        "kernel=fragile",
        f"strategy={strategy}",
        f"model.dropout={dropout}",
        f"trainer.max_steps={STEPS}",
    ]


@pytest.fixture(scope="session")
def reference(make: Maker) -> Callable[..., Path]:
    """Folders of undisturbed runs."""
    made: dict[tuple[str, float], Path] = {}

    def one(strategy: str, dropout: float = 0.1) -> Path:
        if (strategy, dropout) not in made:
            gptx = make(f"reference-{strategy}-{dropout}")
            done = gptx(*words(strategy, dropout))
            assert done.code == 0, done.err
            made[strategy, dropout] = gptx.folder
        return made[strategy, dropout]

    return one


def pausing(gptx: Gptx, at: int) -> dict[str, str]:
    """An environment in which the run waits in the step ``at`` (of this process) for the file ``go``."""
    (gptx.cwd / "go").unlink(missing_ok=True)
    for left in gptx.cwd.glob("paused-*"):
        left.unlink()
    return {"PAUSE_AT": str(at), "PAUSE_IN": str(gptx.cwd), "SLOW": "0.01"}


# ------------------------------------------------------------------------- stopped, one way after the other


class Life:
    """A run that is started again and again; each time it is held up at a step, and there something happens to it."""

    def __init__(self, gptx: Gptx, strategy: str) -> None:
        self.gptx, self.strategy = gptx, strategy
        self.err = ""

    def until(self, call: int) -> "subprocess.Popen[str]":
        """The command again, up to its so manieth step."""
        run = self.gptx.start(*words(self.strategy), **pausing(self.gptx, call))
        everybody = range(2 if self.strategy == "ddp" else 1)
        assert until(lambda: all(self.pid(rank) for rank in everybody), run), run.communicate()
        assert journal.status(self.gptx.folder) == "running"
        return run

    def pid(self, rank: int) -> int:
        """Of a process that waits; 0: it does not yet."""
        note = self.gptx.cwd / f"paused-{rank}"
        return int(note.read_text()) if note.exists() else 0

    def ends(self, run: "subprocess.Popen[str]", code: int, status: str) -> None:
        """What everybody waits for is there: the run ends, like this, and leaves no process."""
        (self.gptx.cwd / "go").touch()
        _, self.err = run.communicate(timeout=DEADLINE)
        assert run.returncode == code, self.err
        assert "Traceback" not in self.err and "elastic" not in self.err, self.err
        assert self.gptx.orphans() == []
        assert journal.status(self.gptx.folder) == status

    def resumed(self) -> list[int]:
        return [record["step"] for record in records(self.gptx.folder, "resume")]

    def steps(self) -> int:
        return int(json.loads((self.gptx.folder / "result.json").read_text())["steps"])


@pytest.mark.parametrize("strategy", ["single", "ddp"])
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
    assert life.err.splitlines()[-1].startswith("gptx: interrupted; the same command goes on")
    assert life.resumed() == [0]
    interrupted = life.steps()
    assert interrupted == 17 or (strategy == "ddp" and 17 < interrupted < STEPS)  # the step in hand was finished

    run = life.until(13)
    run.send_signal(signal.SIGTERM)
    life.ends(run, 143, "interrupted")
    assert life.resumed() == [0, interrupted]  # nothing was lost
    interrupted = life.steps()

    if strategy == "ddp":
        run = life.until(1)
        psutil.Process(life.pid(1)).kill()
        life.ends(run, 1, "failed")
        assert "a worker died without a word" in life.err.splitlines()[-1]
        assert life.resumed()[2:] == [interrupted]

    run = life.until(25)
    run.kill()
    life.ends(run, -signal.SIGKILL, "killed")
    before, newest = [int(path.name[5:]) for path in steps(gptx.folder / "checkpoints")[-2:]]
    state = gptx.folder / f"checkpoints/step-{newest:08d}/state.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 4
    state.write_bytes(data)

    done = gptx(*words(strategy))
    assert done.code == 0, done.err
    assert done.err.count(f"checkpoint step-{newest:08d} is damaged") == 1
    assert f"step-{newest:08d} is damaged" in records(gptx.folder, "event")[-1]["text"]
    assert life.resumed()[-1] == before
    same(gptx.folder, reference(strategy))


@pytest.mark.parametrize("moment", ["while it trains", "while the workers start"])
def test_ctrl_c_on_a_terminal(gptx: Gptx, moment: str) -> None:
    """The terminal sends SIGINT to every process of the group: workers get it twice, from it and from their parent."""
    starts = moment == "while the workers start"
    environment = {} if starts else pausing(gptx, 17)
    terminal = Terminal(gptx, "gptx.run", *OWN_CONF, *gptx.tiny, *words("ddp")[2:], **environment)
    ready = (lambda: len(gptx.workers()) == 2) if starts else (lambda: (gptx.cwd / "paused-0").exists())
    assert terminal.until(ready), terminal.shown
    terminal.press(b"\x03")
    (gptx.cwd / "go").touch()
    assert terminal.end() == 130, terminal.shown
    shown = terminal.shown.replace("\r", "")
    assert "interrupted; the same command goes on" in shown
    assert "Traceback" not in shown and "death signal" not in shown, shown
    assert gptx.orphans() == []
    assert journal.status(gptx.folder) == "interrupted"


def test_two_of_the_same_command_at_once(gptx: Gptx, reference: Callable[..., Path]) -> None:
    first = gptx.start(*words("single"), **pausing(gptx, 57))
    assert until(lambda: (gptx.cwd / "paused-0").exists(), first), first.communicate()
    before = (gptx.folder / "journal.jsonl").read_bytes()
    for more in ([], ["force=true"]):
        second = gptx(*words("single"), *more)
        assert second.code == 2
        [line] = second.err.splitlines()
        assert line.startswith("gptx: ") and "is being trained already" in line and f"process {first.pid}" in line
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
    for path in (newest / "state.pt", folder / "best" / "model.safetensors"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes({"a bit": data, "the end": data[:-9]}.get(how, path.read_bytes()))
    if how == "the checksum":
        (newest / "meta.json").unlink()
    if how == "all":
        (newest / "state.pt").unlink()
        (folder / "best" / "model.safetensors").unlink()
    told: list[str] = []
    set_damaged_aside(folder, told.append)
    assert len(told) == 1 and newest.name in told[0]
    assert [path.name for path in steps(folder)] == [before.name]
    state = latest(folder)
    assert state is not None and state["step"] == int(before.name[5:])
    if how != "the checksum":
        with pytest.raises(CheckpointError):
            load_best(folder)


# ------------------------------------------------------------------------------ random moments


def disturbed(gptx: Gptx, strategy: str, kills: int, seed: int, *more: str) -> list[str]:
    """Run with so many kill -9 at random moments, to the end; returns when each came. The moments: a number of records
    further in the journal than where this attempt began, the writing of a checkpoint, the writing of the result."""
    rng = random.Random(seed)
    came: list[str] = []
    while len(came) < kills:
        begun = _size(gptx)
        moment = rng.choice(["in the middle", "in the middle", "saving", "at the end"])
        records_on = rng.randint(1, 2 * STEPS // kills)
        run = gptx.start(*words(strategy), *more)
        reached = {
            "in the middle": lambda: _size(gptx) >= begun + records_on,
            "saving": lambda: _size(gptx) > begun and _saving(gptx),
            "at the end": lambda: _size(gptx) > begun and _ending(gptx),
        }[moment]
        if not until(reached, run) or run.poll() is not None:  # it was faster: its end must have been right
            assert run.communicate()[1] is not None and run.returncode == 0
            came.append("too late")
            gptx.folder.rename(gptx.cwd / f"done-{len(came)}")
            continue
        victims = [run.pid, *[p.pid for p in gptx.workers()]]
        victim = rng.choice(victims) if strategy == "ddp" else run.pid
        with_worker = victim != run.pid
        psutil.Process(victim).kill()
        run.communicate(timeout=DEADLINE)
        assert run.returncode == (1 if with_worker else -9)
        came.append(moment)
    done = gptx(*words(strategy), *more)
    assert done.code == 0, done.err
    return came


def _size(gptx: Gptx) -> int:
    return sum(len(journal.tail(folder)[0]) for folder in gptx.folders())


def _saving(gptx: Gptx) -> bool:
    return any(folder.glob("checkpoints/.step-*.part") for folder in gptx.folders())


def _ending(gptx: Gptx) -> bool:
    return any((folder / "samples").exists() for folder in gptx.folders())
