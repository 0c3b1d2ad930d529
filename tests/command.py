"""What the command-line tests share: real processes of the command, in a folder of their own, and what they leave."""

import contextlib
import csv
import os
import pty
import random
import select
import signal
import socket
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from gptx.config.overrides import key_of
from gptx.runs import checkpoint_files, journal
from gptx.training.checkpoint import whole

ROOT = Path(__file__).parents[1]
OWN = Path(__file__).parent / "own"  # a user's own variants, outside the package
OWN_CONF = ("--config-dir", str(OWN / "conf"))
STEPS = 200
DEADLINE = 240.0  # seconds; a guard against hanging for ever, on a machine however slow, and no expectation

# A run that trains in a tenth of a second.
TINY = (
    "device=cpu",
    "precision=fp32",
    "model.n_layer=1",
    "model.n_head=4",
    "model.d_model=16",
    "model.context=16",
    "trainer.max_steps=30",
    "trainer.batch_size=8",
    "trainer.eval_every=10",
    "trainer.val_tokens=512",
    "runtime.val_batch=8",
    "runtime.log_every=1",
    "runtime.threads=1",
    "runtime.sample_tokens=8",
    "tracking=off",
)


def words(strategy: str, dropout: float = 0.1) -> list[str]:
    """A run that can be held up at a step: 200 steps, a checkpoint after every tenth."""
    return [
        *OWN_CONF,
        "kernel=fragile",
        f"strategy={strategy}",
        f"model.dropout={dropout}",
        f"trainer.max_steps={STEPS}",
    ]


def once(*given: str) -> list[str]:
    """Each key once, as a sweep wants it: the last word counts."""
    return list({key_of(word): word for word in given}.values())


def pausing(gptx: "Gptx", at: int) -> dict[str, str]:
    """An environment in which the run waits in the step ``at`` (of this process) for the file ``go``; or for the file
    ``go-when-told`` and a signal, which whoever hands it on may be slow to do."""
    for left in (*gptx.cwd.glob("go*"), *gptx.cwd.glob("paused-*")):
        left.unlink()
    return {"PAUSE_AT": str(at), "PAUSE_IN": str(gptx.cwd), "SLOW": "0.01"}


@dataclass(frozen=True)
class Done:
    """How a process ended."""

    code: int
    out: str
    err: str


class Gptx:
    """The command in a working directory of its own. Every process it starts, and theirs, is known by a mark."""

    def __init__(self, cwd: Path, corpus: Path, tokens: Path) -> None:
        self.cwd, self.outputs = cwd, cwd / "outputs"
        self.mark = uuid.uuid4().hex
        self.started: list[subprocess.Popen[Any]] = []
        self.tiny = [*TINY, "data=text", f"data.path={corpus}", f"paths.data={tokens}"]
        paths = os.pathsep.join([str(ROOT), str(OWN)])
        inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "COLUMNS")}
        self.env = inherited | {"PYTHONPATH": paths, "MLFLOW_DISABLE_TELEMETRY": "true", "GPTX_TEST": self.mark}

    def __call__(self, *overrides: str, **env: str) -> Done:
        """The tiny run with these overrides, to its end."""
        return self.run("gptx.run", *self.tiny, *overrides, **env)

    def run(self, module: str, *words: str, timeout: float = DEADLINE, **env: str) -> Done:
        """Any module, to its end."""
        process = self.popen(module, *words, **env)
        out, err = process.communicate(timeout=timeout)
        return Done(process.returncode, out, err)

    def start(self, *overrides: str, **env: str) -> "subprocess.Popen[str]":
        """The tiny run with these overrides, on its way."""
        return self.popen("gptx.run", *self.tiny, *overrides, **env)

    def start_under(self, command: str, *overrides: str, **env: str) -> "subprocess.Popen[str]":
        """The same, started by another command."""
        return self.start_as([command, sys.executable, "-m", "gptx.run"], *overrides, **env)

    def start_as(self, command: list[str], *overrides: str, **env: str) -> "subprocess.Popen[str]":
        """The same; the command is all words but these."""
        return self._popen([*command, *self.tiny, *overrides], env)

    def popen(self, module: str, *words: str, **env: str) -> "subprocess.Popen[str]":
        return self._popen([sys.executable, "-m", module, *words], env)

    def _popen(self, command: list[str], env: dict[str, str]) -> "subprocess.Popen[str]":
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=self.cwd, env=self.env | env, text=True, **pipes)  # type: ignore[call-overload]
        self.started.append(process)
        return process  # type: ignore[no-any-return]

    def folders(self) -> list[Path]:
        return list(journal.runs(self.outputs))

    @property
    def folder(self) -> Path:
        """The only run there is."""
        [folder] = self.folders()
        return folder

    def processes(self) -> list[psutil.Process]:
        """All living processes that descend from this command, whoever their parent is by now."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and _environment(p) == self.mark]

    def workers(self, kind: str = "spawn") -> list[psutil.Process]:
        """The processes that a strategy started; ``forkserver``: what a sweep keeps in store, and its helpers."""
        return [p for p in self.processes() if f"multiprocessing.{kind}" in _command(p)]

    def orphans(self) -> list[str]:
        """Command lines of what is still there, after what is dying has died."""
        deadline = time.monotonic() + DEADLINE / 2
        while time.monotonic() < deadline and self.processes():
            time.sleep(0.02)
        return [_command(p) for p in self.processes()]

    def close(self) -> None:
        send(self.processes(), signal.SIGKILL)
        for started in self.started:
            started.wait(DEADLINE)
            for pipe in (started.stdout, started.stderr):
                if pipe is not None:
                    pipe.close()


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """A signal to each that is still there: what was listed may be gone, such as a command that asks for a version."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _environment(process: psutil.Process) -> str:
    """The mark of a living process; it may be of somebody else, or die under our eyes."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return str(process.environ().get("GPTX_TEST", ""))
    except (psutil.Error, OSError):
        return ""


def _command(process: psutil.Process) -> str:
    return " ".join(words_of(process))


def words_of(process: psutil.Process) -> list[str]:
    """Of its command line; none of one that is gone."""
    try:
        return process.cmdline()  # type: ignore[no-any-return]
    except psutil.Error:
        return []


def until(true: Callable[[], Any], process: "subprocess.Popen[Any] | None" = None) -> bool:
    """Wait for a condition. False: the process ended before it came true."""
    deadline = time.monotonic() + DEADLINE
    while not true():
        if process is not None and process.poll() is not None:
            return bool(true())
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.004)
    return True


def unused_port() -> int:
    """A port of this machine that nobody has; nor gets it by chance, for the system gives away others."""
    for port in random.SystemRandom().sample(range(30000, 32768), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError("100 ports are taken")


def the_first(gptx: Gptx) -> Path:
    """The checkpoint of step 10, when it is there: it is written while the run goes on."""
    assert until(lambda: checkpoint_files.steps(gptx.folder / "checkpoints"))
    [path] = checkpoint_files.steps(gptx.folder / "checkpoints")
    return path


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in journal.read(folder) if record["kind"] == kind]


def history(folder: Path) -> dict[tuple[str, int], float]:
    """Every value that training computed, by key and step; speed is not among them."""
    found: dict[tuple[str, int], float] = {}
    for record in records(folder, "metrics"):
        for key, value in record["values"].items():
            if key.startswith(("train/", "val/")):
                assert (key, record["step"]) not in found, f"{key} of step {record['step']} was written twice"
                found[key, record["step"]] = value
    return found


def flip(path: Path, at: float = 0.5) -> None:
    """One bit of a file, so far in it."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors that a run leaves: best model, last model, moments of the optimiser."""
    checkpoints = folder / "checkpoints"
    last = max(path for path in checkpoints.glob("step-*"))
    best = load_file(checkpoints / "best" / "model.safetensors")
    return best | {f"{last.name}.{key}": tensor for key, tensor in whole(last).items()}


def same(folder: Path, reference: Path) -> None:
    """The two runs computed the same, bit for bit: every metric of every step, every weight, every moment."""
    assert history(folder) == history(reference)
    ours, theirs = weights(folder), weights(reference)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert (folder / "checkpoints/best/meta.json").read_text() == (reference / "checkpoints/best/meta.json").read_text()
    for samples in (reference / "samples").glob("*"):
        assert (folder / "samples" / samples.name).read_text() == samples.read_text()


def equal_sweeps(ours: Gptx, theirs: Gptx, runs: int) -> None:
    """Every run was begun once and is what the undisturbed sweep has; the comparison is the same but for speeds."""
    assert len(ours.folders()) == len(theirs.folders()) == runs
    for folder in ours.folders():
        assert len(records(folder, "start")) == 1
        assert [record["status"] for record in records(folder, "end")].count("finished") == 1
        same(folder, theirs.outputs / folder.parent.name / folder.name)
    tables = []
    for one in (ours, theirs):
        assert one.run("gptx.compare", "--csv", "table.csv").code == 0
        with open(one.cwd / "table.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        measured = ("tokens_per_s", "seconds", "peak_memory", "runs")
        tables.append([{k: v for k, v in row.items() if not k.startswith(measured)} for row in rows])
    assert tables[0] == tables[1]


class Terminal:
    """A process on a terminal of its own, as a person would start it."""

    # A process of its own takes the terminal, before it is Python that runs gptx: this one may have threads.
    _SHIM = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

    def __init__(self, gptx: Gptx, module: str, *words: str, **env: str) -> None:
        self.master, slave = pty.openpty()
        modes = termios.tcgetattr(slave)
        modes[3] |= termios.NOFLSH  # else a Ctrl-C discards what is on its way to the screen
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        command = [sys.executable, "-c", self._SHIM, sys.executable, "-m", module, *words]
        size = {"COLUMNS": "160", "LINES": "40", "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            command, cwd=gptx.cwd, env=gptx.env | size | env, stdin=slave, stdout=slave, stderr=slave
        )
        gptx.started.append(self.process)
        os.close(slave)
        self.shown = ""

    def read(self) -> bool:
        """Take in what was printed; False at the end."""
        ended = self.process.poll() is not None  # asked first: what it says before it ends is read
        if not select.select([self.master], [], [], 0.01)[0]:
            return not ended
        try:
            data = os.read(self.master, 65536)
        except OSError:  # how Linux says that nobody holds the other end any more
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)

    def until(self, true: Callable[[], Any]) -> bool:
        deadline = time.monotonic() + DEADLINE
        while not true():
            assert time.monotonic() < deadline, f"waited in vain; shown:\n{self.shown}"
            if not self.read():
                return bool(true())
        return True

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        """The exit code, when all is read."""
        self.until(lambda: False)
        code = self.process.wait(DEADLINE)
        os.close(self.master)
        return code
