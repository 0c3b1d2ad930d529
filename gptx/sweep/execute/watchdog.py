"""The watchdog of one process that trains a run: enforces its limits, and finds out how and why it ended."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from gptx.cli import EXIT_RESUMABLE, stop_exit_code
from gptx.processes.children import describe_exit
from gptx.regular_files import open_regular
from gptx.runs import journal
from gptx.runs.atomic_files import no_space
from gptx.runs.checkpoint_files import newest
from gptx.runs.folder import RunFolder
from gptx.runs.records import RunStatus
from gptx.runs.units import human
from gptx.sweep.execute.launcher import End, Task, run_uid
from gptx.sweep.state.records import AttemptOutcome

LOG = "run.log"  # in the run's logs/: stdout and stderr of its process
_EXIT_MISTAKE = 2  # the exit code of a wrong config
_EXITS_OF_A_STOP = {stop_exit_code(signal.SIGINT), EXIT_RESUMABLE, -signal.SIGTERM}


class Process(Protocol):
    """The common interface of `subprocess.Popen` and multiprocessing's processes. The process leads its own session."""

    @property
    def pid(self) -> int | None: ...


@dataclass(frozen=True)
class Limits:
    """Limits of each run of a sweep, from the config's ``sweep`` section; 0: no limit.

    Attributes:
        timeout: minutes.
        memory: GB that the processes of a run may hold together.
        grace: seconds between the request to end and the kill.
    """

    timeout: float = 0.0
    memory: float = 0.0
    grace: float = 0.0


class Watchdog:
    """Watches the process of one attempt at a task.

    Args:
        replaces: uid of the run that force=true replaces. While the folder still holds that run, the attempt has not
            started training.

    Attributes:
        exceeded: the limit that the process exceeded, as a message; empty if none.
    """

    def __init__(self, task: Task, process: Process, limits: Limits, replaces: str) -> None:
        assert process.pid is not None
        self.task, self.pid, self._limits = task, process.pid, limits
        self._replaces = replaces if task.forced else ""
        self._started = time.time()
        self._stop_requested: float | None = None  # the time of the request
        self.exceeded = ""
        self._oom_kills = _oom_kills()

    def check(self) -> None:
        """Stop the process if it exceeds a limit; kill it if a stop was requested and the grace period is over."""
        now = time.time()
        if self._stop_requested is not None:
            if now - self._stop_requested > self._limits.grace:
                self.kill()
            return
        timeout, memory = self._limits.timeout, self._limits.memory
        if timeout and now - self._started > 60 * timeout:
            self.stop(f"took longer than sweep.timeout={timeout:g} minutes")
        elif memory and (used := _memory_of(self.pid)) > memory * 1e9:
            self.stop(f"used {human(used, 'B')}, more than sweep.memory={memory:g}")
            self.kill()

    def stop(self, exceeded: str = "") -> None:
        """Ask the process to save a checkpoint and end."""
        if self._stop_requested is None:
            self._stop_requested, self.exceeded = time.time(), exceeded
            self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._send(signal.SIGKILL)  # it may not lead its own session yet

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, code: int) -> End:
        """Kill remaining workers; return how the attempt ended. ``code``: of the process (-n: ended by signal n)."""
        folder = RunFolder(self.task.folder)
        with contextlib.suppress(ProcessLookupError):  # workers that still run
            os.killpg(self.pid, signal.SIGKILL)
        if not self._replaces or run_uid(folder.path) != self._replaces:
            if folder.finished():
                return End(self.task, AttemptOutcome.FINISHED)
            if code == 0 and journal.status(folder.path) is RunStatus.INTERRUPTED:
                return End(self.task, AttemptOutcome.PAUSED)
        progress = _progress(folder.path)
        if self.exceeded:
            return End(self.task, AttemptOutcome.LIMIT_EXCEEDED, f"{self.exceeded} ({progress})")
        if code in _EXITS_OF_A_STOP and self._stop_requested is not None:
            return End(self.task, AttemptOutcome.STOPPED, progress)
        outcome = AttemptOutcome.REJECTED if code == _EXIT_MISTAKE else AttemptOutcome.FAILED
        return End(self.task, outcome, self._error(code, folder))

    def _error(self, code: int, folder: RunFolder) -> str:
        """Why the run failed: its recorded error, else the exit code or the last line of its log."""
        result = folder.result()
        written = (folder.path / "result.json").stat().st_mtime if result else 0.0
        if code > 0 and result and result.error and written >= self._started:
            return result.error
        if code == -signal.SIGKILL:
            certain = _oom_kills() > self._oom_kills
            cause = "the system ran out of memory" if certain else "usually because the system ran out of memory"
            return f"killed (SIGKILL), {cause}"
        silent = f"its process ended without an error message ({describe_exit(code)}){_full_disk(folder)}"
        return last_error(folder.path) or silent


def last_error(folder: Path) -> str:
    """The last line of a run's log if it is an error message, else ""."""
    log = folder / "logs" / LOG
    if not log.exists():
        return ""
    with open_regular(log, errors="replace") as file:
        last: list[str] = file.read().splitlines()[-1:]
    for line in last:
        if line.startswith("gptx: ") or line.partition(":")[0].endswith(("Error", "Exception")):
            return line.removeprefix("gptx: ")
    return ""


def _full_disk(folder: RunFolder) -> str:
    """A message if the disk is full, because the run could then not log an error; else ""."""
    full = no_space(folder.path)
    return f": {full} in {folder.path}; free some space and give the same command again" if full else ""


def _progress(folder: Path) -> str:
    step = newest(folder / "checkpoints")
    return f"checkpoint at step {step:,}" if step else "no checkpoint yet"


def _memory_of(pid: int) -> int:
    """Bytes of a process and its descendants; shared pages are divided among the processes that share them."""
    return sum(_bytes(process) for process in _with_descendants(pid))


def _with_descendants(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        yield from (process, *process.children(recursive=True))


def _bytes(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(info, "pss", info.rss))


def _oom_kills() -> int:
    """How many processes this system has killed because it ran out of memory."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
