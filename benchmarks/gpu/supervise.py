"""Run a part in a process of its own, within a time limit, and collect its rows as they come."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu.part import Part, PartResult, Progress, Row, Settings, State
from gptx.processes.children import describe_exit

ROOT = Path(__file__).parents[2]
REHEARSAL = 3  # times the limit of a case on a CPU, where other programs may use the cores
POLL = 0.05  # seconds
WAIT_FOR_END = 10.0  # seconds, after SIGKILL
POISONED = 86  # exit code of a child whose GPU answers nothing any more
OVER = "the time of the part was over"


@dataclass
class Supervisor:
    """Runs one part.

    Args:
        logs: the folder for what the processes print.
        changed: called after each new row.
    """

    part: Part
    settings: Settings
    result: PartResult
    logs: Path
    changed: Callable[[Row], None]
    begun: str = ""  # the case that is being measured
    since: float = 0.0  # when it began
    partial: Row | None = None  # what it has measured so far
    number: int = 0  # of the process
    read: int = 0  # how far its events were read
    unread: str = ""

    def run(self, limit: float) -> None:
        """Measure all cases, or as many as the limit (seconds) allows."""
        start, deadline = time.monotonic(), time.monotonic() + limit
        self.result.limit, self.result.progress = round(limit, 1), Progress.RUNNING
        try:
            while self._left() and self.result.progress == Progress.RUNNING:
                self._one_process(deadline)
            if self.result.progress == Progress.RUNNING:
                self.result.progress = Progress.DONE
        except BaseException:
            self.result.progress = Progress.INTERRUPTED
            self._end_case(State.CUT, "interrupted")
            raise
        finally:
            self.result.seconds = round(time.monotonic() - start, 1)
            for case in self._left():
                self.result.rows.append(Row(case, State.NOT_RUN, 0.0, self.result.note or self.result.progress))

    def _left(self) -> list[str]:
        done = {row.case for row in self.result.rows}
        return [case for case in self.part.cases(self.settings) if case not in done]

    def _one_process(self, deadline: float) -> None:
        """Measure the cases that are left until the process ends, a case takes too long, or the time is over."""
        before = len(self.result.rows)
        child, log = self._start()
        try:
            why = self._watch(child, deadline)
        finally:
            end(child)
        self._collect()
        if why:
            self._end_case(State.CUT, why)
        elif child.returncode not in (0, POISONED):
            self._end_case(State.FAILED, f"the process ended with {describe_exit(child.returncode)} (logs/{log.name})")
        if time.monotonic() > deadline:
            self.result.progress, self.result.note = Progress.CUT, OVER
        elif len(self.result.rows) == before:  # another process would do no better
            self.result.progress, self.result.note = Progress.FAILED, f"the process measured nothing: {_last(log)}"

    def _watch(self, child: "subprocess.Popen[bytes]", deadline: float) -> str:
        """Collect rows until the process ends. Return why it must be ended before, or ""."""
        limit = self.part.case_limit * (REHEARSAL if self.settings.toy else 1)
        while child.poll() is None:
            self._collect()
            if time.monotonic() > deadline:
                return OVER
            if self.begun and time.monotonic() - self.since > limit:
                return f"it took more than {limit:g} s"
            time.sleep(POLL)
        return ""

    def _start(self) -> tuple["subprocess.Popen[bytes]", Path]:
        self.number, self.read, self.unread = self.number + 1, 0, ""
        self.events.touch()
        work: dict[str, Any] = {
            "module": self.part.measure.__module__,
            "settings": asdict(self.settings),
            "events": str(self.events),
        }
        work |= {"cases": self._left(), "parent": os.getpid()}
        own = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
        # Below scratch: every benchmark compiles for itself, so that the times until the first steps can be compared.
        for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            own[name] = str(Path(self.settings.scratch) / name.lower())
        if self.settings.toy:  # models so small that more threads only make them slower
            own |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        log = self.logs / f"{self.part.name}.log"
        with open(log, "ab") as file:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            options |= {"cwd": self.settings.scratch, "env": os.environ | own}
            command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.gpu.child", json.dumps(work)]
            return subprocess.Popen(command, start_new_session=True, **options), log

    @property
    def events(self) -> Path:
        return Path(self.settings.scratch) / f"{self.part.name}-{self.number}.events"

    def _collect(self) -> None:
        """Read the new events; an incomplete line is kept for the next time."""
        with open(self.events) as file:
            file.seek(self.read)
            text = self.unread + file.read()
            self.read = file.tell()
        *lines, self.unread = text.split("\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        if "begin" in event:
            self.begun, self.since, self.partial = event["begin"], time.monotonic(), None
        elif "partial" in event:
            self.partial = _row(event["partial"])
        else:
            self.begun = ""
            self._add(_row(event["row"]))

    def _end_case(self, state: State, text: str) -> None:
        """Record the case that was being measured, if there is one, with what it has measured."""
        if not self.begun:
            return
        case, seconds = self.begun, round(time.monotonic() - self.since, 2)
        self.begun, so_far = "", self.partial
        text = f"{so_far.text}; {text}" if so_far else text
        self._add(Row(case, state, seconds, text, so_far.figures if so_far else {}))

    def _add(self, row: Row) -> None:
        self.result.rows.append(row)
        self.changed(row)


def _row(fields: dict[str, Any]) -> Row:
    return Row(**fields | {"state": State(fields["state"])})


def _last(log: Path) -> str:
    """The last line that a process has printed, and where the others are."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1].strip() if lines else 'it printed nothing'} (logs/{log.name})"


def end(child: "subprocess.Popen[bytes]") -> None:
    """Kill a process with all processes that it has started, and wait for its end."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(child.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold it: the others must run nevertheless
        child.wait(timeout=WAIT_FOR_END)
