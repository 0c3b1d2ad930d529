"""Helpers of the command-line tests: start gptx in real processes, wait for them, and read what they wrote."""

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from warm import WarmParent, WarmProcess

from gptx.config.overrides import is_group, key_of
from gptx.runs import checkpoint_files, journal, json_log
from gptx.training.checkpoint import load_tensors

ROOT = Path(__file__).parents[1]
OWN = Path(__file__).parent / "own"  # a user's variants, outside the package
OWN_CONF = ("--config-dir", str(OWN / "conf"))
TESTCLUSTER = str(ROOT / "launch" / "testcluster")
STEPS = 200
DEADLINE = 240.0  # seconds until a hanging test fails; no statement about speed

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
    """Overrides of a run of 200 steps that tests can pause at any step; it writes a checkpoint every 10 steps."""
    return [
        *OWN_CONF,
        "kernel=fragile",
        f"strategy={strategy}",
        f"model.dropout={dropout}",
        f"trainer.max_steps={STEPS}",
    ]


def once(*given: str) -> list[str]:
    """Each key once, as a sweep requires: the last override of a key counts."""
    return list({key_of(word): word for word in given}.values())


def options_once(*given: str) -> list[str]:
    """All overrides and flags, except an option of a group that is given again later: gptx refuses two of a group."""
    last = {key_of(word): word for word in given}
    return [word for word in given if not is_group(key_of(word)) or last[key_of(word)] == word]


def pausing(gptx: "Gptx", at: int) -> dict[str, str]:
    """Environment variables that make each process of the run wait in its step ``at``: until the file ``go`` exists, or
    until the file ``go-after-signal`` exists and a signal has arrived."""
    for left in (*gptx.cwd.glob("go*"), *gptx.cwd.glob("paused-*")):
        left.unlink()
    return {"PAUSE_AT": str(at), "PAUSE_IN": str(gptx.cwd), "SLOW": "0.01"}


def environment() -> dict[str, str]:
    """Environment variables of gptx's processes in the tests."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "COLUMNS")}
    return inherited | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(OWN)]), "MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass(frozen=True)
class Done:
    """Exit code and output of a process."""

    code: int
    out: str
    err: str


Started = subprocess.Popen[Any] | WarmProcess


def one_line(done: Done, *parts: str) -> None:
    """Assert that a command was rejected in one line that contains these parts."""
    assert done.code == 2, done
    assert done.out == ""
    [line] = done.err.splitlines()
    assert line.startswith("gptx: ")
    for part in parts:
        assert part in line


class Gptx:
    """The gptx command in its own working directory. A mark in their environment identifies its processes."""

    def __init__(self, cwd: Path, corpus: Path, tokens: Path, warm: WarmParent | None = None) -> None:
        self.cwd, self.outputs, self.warm = cwd, cwd / "outputs", warm
        self.mark = uuid.uuid4().hex
        self.started: list[Started] = []
        self.sessions: set[int] = set()
        self.tiny = [*TINY, "data=text", f"data.path={corpus}", f"paths.data={tokens}"]
        # Runs of other tests on this machine are not counted.
        self.env = environment() | {"GPTX_TEST": self.mark, "XDG_RUNTIME_DIR": str(cwd)}

    def __call__(self, *overrides: str, **env: str) -> Done:
        """Run the tiny model with these overrides and wait for its end."""
        return self.run("gptx.run", *options_once(*self.tiny, *overrides), **env)

    def run(
        self, module: str, *words: str, timeout: float = DEADLINE, by: WarmParent | None = None, **env: str
    ) -> Done:
        """Run any module and wait for its end.

        It runs in a fork of ``by``. Without ``by``, a module of gptx runs in a fork of this command's own warm parent,
        unless it gets another path.
        """
        if by is None and module.partition(".")[0] == "gptx" and "PYTHONPATH" not in env:
            by = self.warm
        if by is not None:
            process: Started = self._fork(by, [module, *words], env)
        else:
            process = self.popen(module, *words, **env)
        out, err = process.communicate(timeout=timeout)
        assert process.returncode is not None
        return Done(process.returncode, out, err)

    def run_unread(self, *words: str, stderr: bool) -> int:
        """Run a module of gptx with a stdout that nobody reads, and with a stderr that nobody reads or that is
        ignored. Wait for its end and return the exit code."""
        assert self.warm is not None
        reader, pipe = os.pipe()
        os.close(reader)
        null = os.open(os.devnull, os.O_RDWR)
        process = self._fork(self.warm, list(words), {}, [null, pipe, pipe if stderr else null])
        os.close(pipe)
        os.close(null)
        return process.wait(DEADLINE)

    def start(self, *overrides: str, **env: str) -> "Started":
        """Start the tiny run with these overrides and return at once: in a fork of the warm parent."""
        if self.warm:
            return self._fork(self.warm, ["gptx.run", *options_once(*self.tiny, *overrides)], env)
        return self.start_cold(*overrides, **env)

    def start_in_fork(self, *words: str, **env: str) -> "Started":
        """Start a module of gptx in a fork of the warm parent and return at once."""
        assert self.warm is not None
        return self._fork(self.warm, list(words), env)

    def start_in_terminal(self, terminal: int, *words: str, **env: str) -> "Started":
        """Start a module of gptx in a fork whose terminal has this descriptor."""
        assert self.warm is not None
        return self._fork(self.warm, list(words), env, [terminal] * 3)

    def start_cold(self, *overrides: str, **env: str) -> "subprocess.Popen[str]":
        """Start the tiny run in a new interpreter."""
        return self.popen("gptx.run", *options_once(*self.tiny, *overrides), **env)

    def start_under(self, command: str, *overrides: str, **env: str) -> "subprocess.Popen[str]":
        """Start the tiny run through another command, such as torchrun or nohup."""
        return self.start_as([command, sys.executable, "-m", "gptx.run"], *overrides, **env)

    def start_as(self, command: list[str], *overrides: str, **env: str) -> "subprocess.Popen[str]":
        """Start the tiny run with a full command line in place of ``python -m gptx.run``."""
        return self._popen([*command, *options_once(*self.tiny, *overrides)], env)

    def popen(self, module: str, *words: str, **env: str) -> "subprocess.Popen[str]":
        return self._popen([sys.executable, "-m", module, *words], env)

    def _fork(
        self, warm: WarmParent, words: list[str], env: dict[str, str], streams: Sequence[int] = ()
    ) -> WarmProcess:
        process = warm.start(words, self.cwd, self.env | env, streams)
        self.started.append(process)
        self.sessions.add(process.pid)
        return process

    def _popen(self, command: list[str], env: dict[str, str]) -> "subprocess.Popen[str]":
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=self.cwd, env=self.env | env, text=True, **pipes)  # type: ignore[call-overload]
        self.started.append(process)
        return process  # type: ignore[no-any-return]

    def folders(self) -> list[Path]:
        return list(journal.runs(self.outputs))

    @property
    def folder(self) -> Path:
        """The folder of the only run."""
        [folder] = self.folders()
        return folder

    @property
    def sweep_folder(self) -> Path:
        """The folder of the only sweep."""
        [folder] = (self.outputs / ".sweeps").iterdir()
        return folder

    def processes(self) -> list[psutil.Process]:
        """All living processes that descend from this command, even when they were adopted by another parent."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._is_mine(p)]

    def _is_mine(self, process: psutil.Process) -> bool:
        """Whether the process has the mark or belongs to the session of a fork, whose environment cannot be seen."""
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) in self.sessions:
                return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
        return _environment(process) == self.mark

    def workers(self, kind: str = "spawn") -> list[psutil.Process]:
        """The worker processes of a strategy; with ``kind="forkserver"`` the prewarmed processes of a sweep."""
        names = (f"multiprocessing.{kind}", "warm.py")  # forks keep the command line of the warm parent
        found = [p for p in self.processes() if p.pid not in self.sessions]
        return [p for p in found if any(name in _command(p) for name in names)]

    def orphans(self) -> list[str]:
        """Command lines of processes that are still alive after waiting for all of them to end."""
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
    """Send a signal to each process; ignore those that have ended in the meantime."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _environment(process: psutil.Process) -> str:
    """The mark in the environment of a process; empty if it has ended or belongs to another user."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return str(process.environ().get("GPTX_TEST", ""))
    except (psutil.Error, OSError):
        return ""


def _command(process: psutil.Process) -> str:
    return " ".join(words_of(process))


def words_of(process: psutil.Process) -> list[str]:
    """The command line of a process; empty if it has ended."""
    try:
        return process.cmdline()  # type: ignore[no-any-return]
    except psutil.Error:
        return []


def until(true: Callable[[], Any], process: "Started | None" = None) -> bool:
    """Wait until a condition is true. Return False if the process ended first."""
    deadline = time.monotonic() + DEADLINE
    while not true():
        if process is not None and process.poll() is not None:
            return bool(true())
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.004)
    return True


def unused_port() -> int:
    """A free port outside the range from which the system assigns ports by itself."""
    for port in random.SystemRandom().sample(range(30000, 32768), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError("100 ports are taken")


def the_first(gptx: Gptx) -> Path:
    """Wait for the checkpoint of step 10, which is written in the background, and return its path."""
    assert until(lambda: checkpoint_files.steps(gptx.folder / "checkpoints"))
    [path] = checkpoint_files.steps(gptx.folder / "checkpoints")
    return path


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in json_log.read(folder) if record["kind"] == kind]


def history(folder: Path) -> dict[tuple[str, int], float]:
    """Every value that training computed, by key and step, without speeds."""
    found: dict[tuple[str, int], float] = {}
    for record in records(folder, "metrics"):
        for key, value in record["values"].items():
            if key.startswith(("train/", "val/")):
                assert (key, record["step"]) not in found, f"{key} of step {record['step']} was written twice"
                found[key, record["step"]] = value
    return found


def flip(path: Path, at: float = 0.5) -> None:
    """Flip one bit of a file, at this fraction of its length."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 4
    path.write_bytes(data)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run: best weights, last weights, optimiser state."""
    checkpoints = folder / "checkpoints"
    last = max(path for path in checkpoints.glob("step-*"))
    best = load_file(checkpoints / "best" / "model.safetensors")
    return best | {f"{last.name}.{key}": tensor for key, tensor in load_tensors(last).items()}


def same(folder: Path, reference: Path) -> None:
    """Assert that two runs are bitwise equal: every metric of every step, all weights, the optimiser state."""
    assert history(folder) == history(reference)
    ours, theirs = weights(folder), weights(reference)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert (folder / "checkpoints/best/meta.json").read_text() == (reference / "checkpoints/best/meta.json").read_text()
    for samples in (reference / "samples").glob("*"):
        assert (folder / "samples" / samples.name).read_text() == samples.read_text()


def equal_sweeps(ours: Gptx, theirs: Gptx, runs: int) -> None:
    """Assert that each run started once and equals its counterpart in the undisturbed sweep; and the comparison too."""
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
        measured = ("tokens_per_s", "seconds", "peak_memory", "other_runs", "runs")
        tables.append([{k: v for k, v in row.items() if not k.startswith(measured)} for row in rows])
    assert tables[0] == tables[1]


class Terminal:
    """A process with its own pseudo-terminal: a new interpreter, or with ``warm=True`` a fork."""

    # A small program becomes the session leader and takes the terminal before it executes gptx.
    _SHIM = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""

    def __init__(self, gptx: Gptx, module: str, *words: str, warm: bool = False, **env: str) -> None:
        self.process: Started
        self.master, slave = pty.openpty()
        modes = termios.tcgetattr(slave)
        modes[3] |= termios.NOFLSH  # otherwise Ctrl-C discards pending output
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        env = {"COLUMNS": "160", "LINES": "40", "TERM": "xterm-256color"} | env
        if warm:
            self.process = gptx.start_in_terminal(slave, module, *words, **env)
        else:
            command = [sys.executable, "-c", self._SHIM, sys.executable, "-m", module, *words]
            streams = {"stdin": slave, "stdout": slave, "stderr": slave}
            self.process = subprocess.Popen(command, cwd=gptx.cwd, env=gptx.env | env, **streams)
            gptx.started.append(self.process)
        os.close(slave)
        self.shown = ""

    def read(self) -> bool:
        """Read new output. Return False at its end."""
        ended = self.process.poll() is not None  # checked first, so that the last output is read
        if not select.select([self.master], [], [], 0.01)[0]:
            return not ended
        try:
            data = os.read(self.master, 65536)
        except OSError:  # Linux reports a closed terminal this way
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)

    def until(self, true: Callable[[], Any]) -> bool:
        deadline = time.monotonic() + DEADLINE
        while not true():
            assert time.monotonic() < deadline, f"the condition did not become true; output:\n{self.shown}"
            if not self.read():
                return bool(true())
        return True

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        """Read all output and return the exit code."""
        self.until(lambda: False)
        code = self.process.wait(DEADLINE)
        os.close(self.master)
        return code
