"""The local launcher: runs side by side on this machine, each in a prewarmed process (`gptx.sweep.execute.prewarm`)."""

import os
import runpy
import sys
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from omegaconf import DictConfig

from gptx.cli import log
from gptx.config.overrides import key_of
from gptx.hardware.cpu import cores
from gptx.regular_files import open_log
from gptx.runs import journal
from gptx.sweep.execute import prewarm
from gptx.sweep.execute.launcher import End, Launcher, Task, force_once, run_uid
from gptx.sweep.execute.watchdog import LOG, Limits, Watchdog
from gptx.sweep.state.folder import Sweep

_POLL = 0.25  # seconds between two checks of the running processes
_OOM_SCORE = "500"  # if memory runs out, the system is to kill a run rather than the sweep


@dataclass(frozen=True)
class _Running:
    """A run that is training, and the GPUs that it uses."""

    process: BaseProcess
    watchdog: Watchdog
    gpus: list[str]


class Local(Launcher):
    """The launcher of ``hydra/launcher=local``: runs on this machine."""

    on_this_machine = True

    def open(self, sweep: Sweep, options: DictConfig, runs: int) -> Self:
        super().open(sweep, options, runs)
        self._limits = Limits(options.timeout, options.memory, options.grace)
        self._queue: deque[Task] = deque()
        self._running: dict[int, _Running] = {}  # by the sentinel of the process
        self._reported_waiting: set[Task] = set()
        self._replaced_uids: dict[Path, str] = {}  # what a run folder held before the first attempt
        self._free_gpus = _visible_gpus()
        self.slots = min(options.jobs or len(self._free_gpus) or cores(), runs)
        # The same for all runs, however few are left: otherwise sums would depend on when the sweep was interrupted.
        self._threads = max(1, cores() // self.slots)
        return self

    def submit(self, tasks: Sequence[Task]) -> None:
        self._queue.extend(tasks)

    def wait(self) -> list[End]:
        for task in list(self._queue):
            if len(self._running) < self.slots and self._fits(task) and self._is_unlocked(task):
                self._queue.remove(task)
                self._start(task)
        ends = []
        for sentinel in connection.wait(list(self._running), _POLL):
            run = self._running.pop(sentinel)  # type: ignore[arg-type]
            run.process.join()
            assert run.process.exitcode is not None
            self._free_gpus += run.gpus
            ends.append(run.watchdog.end(run.process.exitcode))
        for run in self._running.values():
            run.watchdog.check()
        return ends

    def _is_unlocked(self, task: Task) -> bool:
        """Whether no other process trains this run: another sweep, or a run that outlived its killed sweep briefly."""
        unlocked = not journal.locked(task.folder)
        if not unlocked and task not in self._reported_waiting:
            self._reported_waiting.add(task)
            log.warning("%s: another command is training this run; waiting until it ends", task.title)
        return unlocked

    def _fits(self, task: Task) -> bool:
        """Whether enough GPUs, or without GPUs enough cores, are free for all processes of a task."""
        if not self._running:
            return True
        if task.device == "cuda":
            return task.processes <= len(self._free_gpus)
        busy = sum(other.processes for other in self.running())
        return bool(self.options.jobs) or busy + task.processes <= cores()

    def _start(self, task: Task) -> None:
        replaces = self._replaced_uids.setdefault(task.folder, run_uid(task.folder))
        overrides, environment = force_once(task.overrides, task.folder, replaces), {}
        gpus: list[str] = []
        if task.device == "cuda":
            gpus, self._free_gpus = self._free_gpus[: task.processes], self._free_gpus[task.processes :]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        if not any(key_of(override) == "runtime.threads" for override in overrides):
            overrides.append(f"runtime.threads={max(1, self._threads // task.processes)}")
        log = task.folder / "logs" / LOG
        process = prewarm.start_process(_train, overrides, log, environment)
        watchdog = Watchdog(task, process, self._limits, replaces)
        self._running[process.sentinel] = _Running(process, watchdog, gpus)

    def stop(self, tasks: Collection[Task]) -> None:
        self._queue = deque(task for task in self._queue if task not in tasks)
        for run in self._running.values():
            if run.watchdog.task in tasks:
                run.watchdog.stop()

    def running(self) -> list[Task]:
        return [run.watchdog.task for run in self._running.values()]

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._queue.clear()
        for run in self._running.values():
            run.watchdog.kill() if kind is KeyboardInterrupt else run.watchdog.stop()
        while self._running:
            self.wait()


def _train(overrides: list[str], log: Path, environment: Mapping[str, str]) -> None:
    """Do the same as ``python -m gptx.run *overrides`` in the new process, with its output in a log file."""
    os.setsid()  # a terminal's Ctrl-C reaches the sweep only, which stops this process
    prewarm.end_with_parent()
    if Path("/proc/self/oom_score_adj").exists():
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    with open_log(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    sys.argv[1:] = overrides
    runpy.run_module("gptx.run", run_name="__main__", alter_sys=True)


def _visible_gpus() -> list[str]:
    """Names of the GPUs that may be used, in the form that CUDA_VISIBLE_DEVICES takes."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
    return names if torch.cuda.device_count() else []
