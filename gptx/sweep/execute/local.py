"""The process pool: runs side by side on this machine, one process each.

A process that has torch loaded already is kept in store and forked for each run (multiprocessing's forkserver): a run
begins seconds earlier than by a command of its own, and is as much apart from the others.
"""

import os
import runpy
import sys
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

from omegaconf import DictConfig

from gptx.config.overrides import key_of
from gptx.hardware.device import cores
from gptx.runs import journal
from gptx.sweep.execute import prewarmed
from gptx.sweep.execute.launcher import End, Launcher, Task, forced_once, uid
from gptx.sweep.execute.watchdog import LOG, Watched
from gptx.sweep.state.folder import Sweep

_PAUSE = 0.25  # seconds between two looks at what runs
_KILL_FIRST = "500"  # where memory runs out, the system is to take a run, and not the sweep


class Local(Launcher):
    """``hydra/launcher=local``."""

    here = True

    def open(self, sweep: Sweep, options: DictConfig, runs: int) -> Self:
        super().open(sweep, options, runs)
        self._queue: deque[Task] = deque()
        self._running: dict[int, tuple[BaseProcess, Watched, list[str]]] = {}  # by sentinel
        self._told: set[Task] = set()
        self._before: dict[Path, str] = {}  # what lay in a run's folder before its first attempt
        self._gpus = _visible_gpus()
        self.slots = min(options.jobs or len(self._gpus) or cores(), runs)
        # The same for all runs, however few are left to do: else a sum would depend on when the sweep was stopped.
        self._threads = max(1, cores() // self.slots)
        return self

    def submit(self, tasks: Sequence[Task]) -> None:
        self._queue.extend(tasks)

    def wait(self) -> list[End]:
        for task in list(self._queue):
            if len(self._running) < self.slots and self._fits(task) and self._free(task):
                self._queue.remove(task)
                self._start(task)
        ready = connection.wait(list(self._running), _PAUSE)
        ends = []
        for sentinel in ready:
            process, watched, gpus = self._running.pop(sentinel)  # type: ignore[arg-type]
            process.join()
            assert process.exitcode is not None
            self._gpus += gpus
            ends.append(watched.end(process.exitcode))
        for _, watched, _ in self._running.values():
            watched.look()
        return ends

    def _free(self, task: Task) -> bool:
        """Whether nobody else trains this run: another sweep, or what a killed one has left and is about to end."""
        free = not journal.locked(task.folder)
        if not free and task not in self._told:
            self._told.add(task)
            print(f"{task.title}: is being trained by another command, whose end is waited for", file=sys.stderr)
        return free

    def _fits(self, task: Task) -> bool:
        """Whether there are GPUs, or else cores, for all of its processes."""
        if not self._running:
            return True
        if task.device == "cuda":
            return task.processes <= len(self._gpus)
        busy = sum(watched.task.processes for _, watched, _ in self._running.values())
        return bool(self.options.jobs) or busy + task.processes <= cores()

    def _start(self, task: Task) -> None:
        before = self._before.setdefault(task.folder, uid(task.folder))
        words, environment, gpus = forced_once(task.words, task.folder, before), {}, []
        if task.device == "cuda":
            gpus, self._gpus = self._gpus[: task.processes], self._gpus[task.processes :]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        if not any(key_of(word) == "runtime.threads" for word in words):
            words.append(f"runtime.threads={max(1, self._threads // task.processes)}")
        log = task.folder / "logs" / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        process = prewarmed.start(_child, words, log, environment)
        self._running[process.sentinel] = process, Watched(task, process, self.options, before), gpus

    def stop(self, tasks: Collection[Task]) -> None:
        self._queue = deque(task for task in self._queue if task not in tasks)
        for _, watched, _ in self._running.values():
            if watched.task in tasks:
                watched.stop()

    def running(self) -> list[Task]:
        return [watched.task for _, watched, _ in self._running.values()]

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._queue.clear()
        for _, watched, _ in self._running.values():
            watched.kill() if kind is KeyboardInterrupt else watched.stop()
        while self._running:
            self.wait()


def _child(words: list[str], log: Path, environment: Mapping[str, str]) -> None:
    """``python -m gptx.run *words``, with what it says in a log."""
    os.setsid()  # a terminal's Ctrl-C is for the sweep, which hands it on
    prewarmed.leash()
    if Path("/proc/self/oom_score_adj").exists():
        Path("/proc/self/oom_score_adj").write_text(_KILL_FIRST)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    sys.argv[1:] = words
    runpy.run_module("gptx.run", run_name="__main__", alter_sys=True)


def _visible_gpus() -> list[str]:
    """Names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
    return names if torch.cuda.device_count() else []
