"""Runs as jobs of Slurm, through submitit: an array for each shape of runs.

What is submitted runs on without this command; the same command submits what is neither finished nor in the queue.
"""

import shlex
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from omegaconf import DictConfig, OmegaConf

from gptx.config.overrides import key_of
from gptx.errors import ConfigError, RunFailed
from gptx.hardware.device import Machine
from gptx.runs.json_log import JsonLog
from gptx.sweep.execute import slurm_cluster
from gptx.sweep.execute.launcher import End, Launcher, Task, uid
from gptx.sweep.execute.slurm_cluster import State
from gptx.sweep.execute.slurm_job import Job
from gptx.sweep.execute.slurm_jobs import FOLDER, cancelled_in, jobs_of, judge, run_of
from gptx.sweep.execute.snapshot import freeze
from gptx.sweep.state.folder import Sweep

_PAUSE = 1.0  # seconds between two looks at the queue
_ARRAY = 1000  # jobs; Slurm's own default for MaxArraySize is one more
_SAME = {"partition", "account", "qos", "constraint", "signal_delay", "array_parallelism", "setup"}


class Slurm(Launcher):
    """``hydra/launcher=slurm``, or a profile that builds on it. The keywords are those of launch/slurm.yaml."""

    def __init__(self, **keys: Any) -> None:
        self.keys = OmegaConf.create(keys)
        self.detached = not self.keys.wait
        for key, least in {"per_node": 1, "cpus": 1, "minutes": 1, "array_parallelism": 1}.items():
            if self.keys[key] < least:
                raise ConfigError(f"hydra.launcher.{key}={self.keys[key]}: expected at least {least}")
        for key in ("gpus_per_node", "mem_gb", "signal_delay", "requeues"):
            if self.keys[key] < 0:
                raise ConfigError(f"hydra.launcher.{key}={self.keys[key]}: expected at least 0")
        if self.keys.device not in ("cuda", "cpu"):
            raise ConfigError(f"hydra.launcher.device={self.keys.device}: expected cuda or cpu")
        if self.keys.signal_delay >= 60 * self.keys.minutes:
            raise ConfigError(
                f"hydra.launcher.signal_delay={self.keys.signal_delay} seconds of hydra.launcher.minutes="
                f"{self.keys.minutes}: a run would be told to end before it has begun"
            )
        self.there = Machine(self.keys.device, self.keys.per_node, self.keys.cpus)

    def open(self, sweep: Sweep, options: DictConfig, runs: int) -> Self:
        if why := "no sbatch here" if shutil.which("sbatch") is None else slurm_cluster.away():
            raise ConfigError(f"hydra/launcher=slurm: {why}; launch/testcluster starts a Slurm on one machine")
        self.slots = min(runs, self.keys.array_parallelism)
        self._waiting: list[Task] = []  # for the next array
        self._jobs: dict[str, Task] = {}
        self._states: dict[str, State] = {}  # when they were last looked at
        self._looked, self._away = 0.0, False
        return super().open(sweep, options, runs)

    def submit(self, tasks: Sequence[Task]) -> None:
        self._waiting += tasks
        if self.detached:
            self._flush()

    def wait(self) -> list[End]:
        time.sleep(max(0.0, self._looked + _PAUSE - time.monotonic()))
        self._looked = time.monotonic()
        ends = []
        try:
            self._flush()
            self._states = slurm_cluster.states(self._jobs)
        except RunFailed as error:  # jobs run on while Slurm's controller is away
            if not self._away:
                print(f"gptx: {error}; asking again until it answers", file=sys.stderr)
            self._away = True
            return []
        self._away = False
        for job, state in self._states.items():
            if end := judge(self._jobs[job], job, state, self.sweep.path / FOLDER):
                del self._jobs[job]
                ends.append(end)
        return ends

    def stop(self, tasks: Collection[Task]) -> None:
        self._waiting = [task for task in self._waiting if task not in tasks]
        slurm_cluster.cancel([job for job, task in self._jobs.items() if task in tasks])

    def running(self) -> list[Task]:
        at_work = ("RUNNING", "COMPLETING")
        return [task for job, task in self._jobs.items() if self._states.get(job, State()).name in at_work]

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._waiting.clear()
        slurm_cluster.cancel(list(self._jobs))
        self._jobs.clear()

    def _flush(self) -> None:
        """Submit what was gathered, but for what is in the queue already, where it is only watched."""
        if not self._waiting:
            return
        known, ended = jobs_of(self.sweep), cancelled_in(self.sweep)
        states = slurm_cluster.states(known.values())
        shapes: dict[tuple[int, int, str], list[Task]] = {}
        for task in self._waiting:
            job = known.get(run_of(task), "")
            if job and job not in ended and not judge(task, job, states[job], self.sweep.path / FOLDER):
                self._jobs |= {} if self.detached else {job: task}
            else:
                shapes.setdefault((*self._shape(task.processes), task.device), []).append(task)
        if here := len(self._waiting) - sum(map(len, shapes.values())):
            print(f"{here} of {len(self._waiting)} runs are in Slurm's queue already")
        self._waiting = []
        for shape, tasks in shapes.items():
            for first in range(0, len(tasks), _ARRAY):
                self._submit(tasks[first : first + _ARRAY], *shape)

    def _shape(self, processes: int) -> tuple[int, int]:
        """Nodes, and processes on each: as few nodes as share them evenly."""
        most = self.keys.per_node
        nodes = next(n for n in range(1, processes + 1) if processes % n == 0 and processes // n <= most)
        return nodes, processes // nodes

    def _submit(self, tasks: list[Task], nodes: int, each: int, device: str) -> None:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        folder = self.sweep.path.resolve() / FOLDER
        words, modules = [w for task in tasks for w in task.words], dict(m for task in tasks for m in task.modules)
        code, moved = freeze(self.sweep.path.resolve() / "code", words, modules)
        executor = SlurmExecutor(folder, python=self.keys.python or shlex.quote(sys.executable))
        executor.update_parameters(**self._parameters(nodes, each, device, code))
        jobs = [self._job(task, nodes, folder, moved) for task in tasks]
        try:
            with redirect_stderr(StringIO()):  # what sbatch says comes with the error
                submitted = executor.submit_array(jobs)
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"sbatch refuses: {_said(str(error))}") from None
        print(f"job {submitted[0].job_id.split('_')[0]}: {len(tasks)} of {nodes} x {each} (nodes x processes)")
        with JsonLog(self.sweep.path) as book:
            book.write("submitted", jobs={run_of(t): job.job_id for t, job in zip(tasks, submitted, strict=True)})
        if not self.detached:
            self._jobs |= {job.job_id: task for task, job in zip(tasks, submitted, strict=True)}

    def _parameters(self, nodes: int, each: int, device: str, code: Path) -> dict[str, Any]:
        """In submitit's words."""
        given = OmegaConf.to_container(self.keys)
        assert isinstance(given, dict)
        gpus = given["gpus_per_node"] or (each if device == "cuda" else 0)
        found = {key: given[key] for key in given if key in _SAME - {"signal_delay", "setup"} and given[key]}
        found |= {"nodes": nodes, "ntasks_per_node": 1, "cpus_per_task": given["cpus"] * each, "time": given["minutes"]}
        found |= {"mem": f"{int(1024 * given['mem_gb'] * each)}MB"} if given["mem_gb"] else {}
        found |= {"gpus_per_node": gpus} if gpus else {}
        # The copy goes before the folder that the command was started in, where what is being edited may lie.
        copy = f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
        found |= {
            "setup": [*given["setup"], copy, f"PYTHONPATH+=:{shlex.quote(str(Path.cwd()))}"],
            "signal_delay_s": given["signal_delay"],
        }
        extra = {"requeue": True, **given["sbatch"]}  # also where the cluster's default is not to
        return {**found, "job_name": self.sweep.name, "additional_parameters": extra}

    def _job(self, task: Task, nodes: int, folder: Path, moved: Mapping[str, str]) -> Job:
        run = [moved.get(word, word) for word in task.words]
        if not any(key_of(word) == "runtime.threads" for word in run):
            run.append(f"runtime.threads={self.keys.cpus}")
        replaces = uid(task.folder)
        options = OmegaConf.to_container(self.options)
        retry = self.options.retry if self.detached else 0  # else this command tries again
        task = replace(task, folder=task.folder.resolve())
        return Job(task, tuple(run), folder, nodes, self.keys.requeues, retry, replaces, options)  # type: ignore[arg-type]


def _said(error: str) -> str:
    """What sbatch said, of submitit's error."""
    lines = [line.strip() for line in error.splitlines() if "sbatch: error:" in line]
    return "; ".join(line.partition("sbatch: error:")[2].strip() for line in lines) or " ".join(error.split())
