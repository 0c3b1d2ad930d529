"""One process that trains a run of a sweep, watched from outside: its bounds, its end, and why it ended so."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psutil
from omegaconf import DictConfig

from gptx.processes.children import describe_exit
from gptx.processes.signals import EXIT_RESUMABLE, stop_exit_code
from gptx.runs import journal
from gptx.runs.checkpoint_files import newest
from gptx.runs.files import no_space
from gptx.runs.folder import RunFolder
from gptx.sweep.execute.launcher import End, Task, uid

LOG = "run.log"  # in the run's logs/: what it said on its terminal
_INTERRUPTED = {stop_exit_code(signal.SIGINT), EXIT_RESUMABLE, -signal.SIGTERM}


class Process(Protocol):
    """What `subprocess.Popen` and multiprocessing's processes have in common; its number is its session's, too."""

    @property
    def pid(self) -> int | None: ...


class Watched:
    """One attempt at a task.

    Args:
        options: the config's ``sweep``.
        replaces: the uid of the run that force=true is about: while that lies there, nothing has been done.

    Attributes:
        why: the bound that it broke.
    """

    def __init__(self, task: Task, process: Process, options: DictConfig, replaces: str) -> None:
        assert process.pid is not None
        self.task, self.pid, self._options = task, process.pid, options
        self._replaces = replaces if task.forced else ""
        self._began = time.time()
        self._stopping: float | None = None  # when it was asked to end
        self.why = ""
        self._kills = _oom_kills()

    def look(self) -> None:
        """End it, in good order, where it is beyond a bound; and at once where it does not obey."""
        now = time.time()
        if self._stopping is not None:
            if now - self._stopping > self._options.grace:
                self.kill()
            return
        limit = self._options.timeout
        if limit and now - self._began > 60 * limit:
            self.stop(f"took longer than sweep.timeout={limit:g} minutes")
        elif self._options.memory and (held := _held(self.pid)) > self._options.memory * 1e9:
            self.stop(f"held {held / 1e9:.2f} GB, more than sweep.memory={self._options.memory:g}")
            self.kill()

    def stop(self, why: str = "") -> None:
        """Ask it to end after a checkpoint."""
        if self._stopping is None:
            self._stopping, self.why = time.time(), why
            self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Now, and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._send(signal.SIGKILL)  # it may not yet have a session of its own

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, code: int) -> End:
        """What its exit code means (-n: ended by signal n)."""
        folder = RunFolder(self.task.folder)
        with contextlib.suppress(ProcessLookupError):  # workers that it left behind
            os.killpg(self.pid, signal.SIGKILL)
        begun = not self._replaces or uid(folder.path) != self._replaces
        if begun and (folder.finished() or (code == 0 and journal.status(folder.path) == "interrupted")):
            return End(self.task, "")
        why = f"{self.why} ({_stands(folder.path)})" if self.why else self._reason(code, folder)
        return End(self.task, why, final=code == 2)

    def _reason(self, code: int, folder: RunFolder) -> str:
        if code in _INTERRUPTED and self._stopping is not None:
            return f"stopped ({_stands(folder.path)})"
        result = folder.result()
        written = (folder.path / "result.json").stat().st_mtime if result else 0.0
        if code > 0 and result and result.error and written >= self._began:
            return result.error
        if code == -signal.SIGKILL:
            sure = _oom_kills() > self._kills
            return (
                f"killed (SIGKILL): {'the system was out of memory' if sure else 'out of memory is the usual reason'}"
            )
        how = describe_exit(code)
        return last_word(folder.path) or f"its process ended without a word ({how}){_unsaid(folder.path)}"


def last_word(folder: Path) -> str:
    """What a run that ended badly said last, where it said why."""
    log = folder / "logs" / LOG
    last = log.read_text(errors="replace").splitlines()[-1:] if log.exists() else []
    for line in last:
        if line.startswith("gptx: ") or line.partition(":")[0].endswith(("Error", "Exception")):
            return line.removeprefix("gptx: ")
    return ""


def _unsaid(folder: Path) -> str:
    """Why there is no word, where it could not be written."""
    why = no_space(folder)
    return f": {why} in {folder}: free some, and the same command goes on" if why else ""


def _stands(folder: Path) -> str:
    saved = newest(folder / "checkpoints")
    return f"it goes on from step {saved:,}" if saved else "it had no checkpoint yet"


def _held(pid: int) -> int:
    """Bytes of a process and all that descend from it; shared pages count by their share."""
    return sum(_bytes(process) for process in _family(pid))


def _family(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(pid)
        yield from (first, *first.children(recursive=True))


def _bytes(process: psutil.Process) -> int:
    try:
        whole = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(whole, "pss", whole.rss))


def _oom_kills() -> int:
    """How often this system killed something for want of memory."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
