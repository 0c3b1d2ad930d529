"""The Slurm launcher: runs as jobs, submitted through submitit, in one job array for each combination of nodes,
processes and device.

Submitted jobs continue without this command. The same command submits what is neither finished nor in the queue.
"""

import shlex
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from omegaconf import DictConfig, OmegaConf

from gptx.cli import log
from gptx.config.overrides import key_of
from gptx.config.plain_dict import plain_dict
from gptx.errors import ConfigError, RunFailed
from gptx.hardware.device import Machine
from gptx.sweep.execute import slurm_cluster
from gptx.sweep.execute.launcher import End, Launcher, Task, run_uid
from gptx.sweep.execute.slurm_cluster import JobState
from gptx.sweep.execute.slurm_job import Job
from gptx.sweep.execute.slurm_options import ArrayShape, SlurmOptions
from gptx.sweep.execute.slurm_reports import job_end
from gptx.sweep.execute.snapshot import CodeCopy, copy_code
from gptx.sweep.execute.watchdog import Limits
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import JobsSubmitted
from gptx.terminal import echo

_POLL = 1.0  # seconds between two queries of the queue
_MAX_ARRAY = 1000  # jobs; Slurm's default for MaxArraySize is one more


class Slurm(Launcher):
    """``hydra/launcher=slurm``, or a profile that builds on it. ``keys``: see `SlurmOptions`."""

    def __init__(self, **keys: Any) -> None:
        self.keys = SlurmOptions(**plain_dict(OmegaConf.create(keys)))
        self.keys.check()
        self.detached = not self.keys.wait
        self.machine = Machine(self.keys.device, self.keys.per_node, self.keys.cpus)

    def open(self, sweep: Sweep, options: DictConfig, runs: int) -> Self:
        missing = shutil.which("sbatch") is None
        if reason := "sbatch is not installed on this machine" if missing else slurm_cluster.unavailable():
            raise ConfigError(
                f"hydra/launcher=slurm: {reason}; to try it without a cluster, launch/testcluster starts one here"
            )
        self.slots = min(runs, self.keys.array_parallelism)
        self._to_submit: list[Task] = []  # gathered for the next array
        self._jobs: dict[str, Task] = {}  # those that this command watches
        self._states: dict[str, JobState] = {}  # at the last query
        self._queried, self._unavailable = 0.0, False
        return super().open(sweep, options, runs)

    def submit(self, tasks: Sequence[Task]) -> None:
        self._to_submit += tasks
        if self.detached:
            self._submit_gathered()

    def wait(self) -> list[End]:
        time.sleep(max(0.0, self._queried + _POLL - time.monotonic()))
        self._queried = time.monotonic()
        try:
            self._submit_gathered()
            self._states = slurm_cluster.job_states(self._jobs)
        except RunFailed as error:  # jobs continue while Slurm's controller does not answer
            if not self._unavailable:
                log.warning("%s; trying again until Slurm answers", error)
            self._unavailable = True
            return []
        self._unavailable = False
        ends = []
        for job, state in self._states.items():
            if end := job_end(self._jobs[job], job, state, self.sweep.slurm_folder):
                del self._jobs[job]
                ends.append(end)
        return ends

    def stop(self, tasks: Collection[Task]) -> None:
        self._to_submit = [task for task in self._to_submit if task not in tasks]
        slurm_cluster.cancel([job for job, task in self._jobs.items() if task in tasks])

    def running(self) -> list[Task]:
        names = ("RUNNING", "COMPLETING")
        return [task for job, task in self._jobs.items() if self._states.get(job, JobState()).name in names]

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._to_submit.clear()
        slurm_cluster.cancel(list(self._jobs))
        self._jobs.clear()

    def _submit_gathered(self) -> None:
        """Submit the gathered tasks. Those that have a job in the queue are not submitted again, only watched."""
        if not (tasks := self._to_submit):
            return
        queued = self._queued(tasks)
        self._to_submit = []
        if queued:
            echo(f"{len(queued)} of {len(tasks)} runs are already in Slurm's queue")
        self._jobs |= {} if self.detached else queued
        arrays: dict[ArrayShape, list[Task]] = {}
        for task in tasks:
            if task not in queued.values():
                arrays.setdefault(self._shape(task), []).append(task)
        for shape, members in arrays.items():
            for first in range(0, len(members), _MAX_ARRAY):
                self._submit_array(members[first : first + _MAX_ARRAY], shape)

    def _queued(self, tasks: Sequence[Task]) -> dict[str, Task]:
        """The tasks whose job has not ended, by job."""
        jobs, cancelled = self.sweep.jobs(), self.sweep.cancelled_jobs()
        states = slurm_cluster.job_states(jobs.values())
        known = {job: task for task in tasks if (job := jobs.get(run_of(task), "")) and job not in cancelled}
        folder = self.sweep.slurm_folder
        return {job: task for job, task in known.items() if not job_end(task, job, states[job], folder)}

    def _shape(self, task: Task) -> ArrayShape:
        """The shape with the fewest nodes over which the processes of a task can be distributed evenly."""
        count, most = task.processes, self.keys.per_node
        nodes = next(n for n in range(1, count + 1) if count % n == 0 and count // n <= most)
        return ArrayShape(nodes, count // nodes, task.device)

    def _submit_array(self, tasks: list[Task], shape: ArrayShape) -> None:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        arguments = [override for task in tasks for override in task.overrides]
        modules = dict(module for task in tasks for module in task.modules)
        code = copy_code(self.sweep.path.resolve() / "code", arguments, modules)
        folder = self.sweep.slurm_folder.resolve()
        executor = SlurmExecutor(folder, python=self.keys.python or shlex.quote(sys.executable))
        executor.update_parameters(**self.keys.for_submitit(shape, self.sweep.name, code.path))
        jobs = [self._job(task, shape.nodes, folder, code) for task in tasks]
        try:
            with redirect_stderr(StringIO()):  # the error has the output of sbatch
                submitted = executor.submit_array(jobs)
        except (FailedJobError, FailedSubmissionError) as error:
            raise ConfigError(f"sbatch rejected the jobs: {_sbatch_error(str(error))}") from None
        ids = [job.job_id for job in submitted]
        echo(f"submitted job {ids[0].split('_')[0]}: {shape.describe(len(tasks))}")
        with self.sweep.journal() as journal:
            journal.write(JobsSubmitted(jobs={run_of(task): job for task, job in zip(tasks, ids, strict=True)}))
        if not self.detached:
            self._jobs |= dict(zip(ids, tasks, strict=True))

    def _job(self, task: Task, nodes: int, folder: Path, code: CodeCopy) -> Job:
        overrides = [code.config_dirs.get(override, override) for override in task.overrides]
        if not any(key_of(override) == "runtime.threads" for override in overrides):
            overrides.append(f"runtime.threads={self.keys.cpus}")
        return Job(
            replace(task, folder=task.folder.resolve()),
            tuple(overrides),
            folder,
            nodes,
            self.keys.requeues,
            retry=self.options.retry if self.detached else 0,  # otherwise this command tries again
            replaces=run_uid(task.folder),
            limits=Limits(self.options.timeout, self.options.memory, self.options.grace),
        )


def run_of(task: Task) -> str:
    """``study/run``, the name of a run in the sweep's plan."""
    return f"{task.folder.parent.name}/{task.folder.name}"


def _sbatch_error(error: str) -> str:
    """The messages of sbatch in submitit's error."""
    lines = [line.strip() for line in error.splitlines() if "sbatch: error:" in line]
    return "; ".join(line.partition("sbatch: error:")[2].strip() for line in lines) or " ".join(error.split())
