"""A job of Slurm: trains one run on each of its nodes, requeues itself, and reports how the run ended.

Slurm sends its signals to every process of a job. The run saves a checkpoint and ends; then the job asks Slurm
for the reason of the signal. If a job is killed, or Slurm itself requeues it, only Slurm has a record of the reason.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gptx.processes.signals import STOP_SIGNALS, block_warning_signals
from gptx.regular_files import open_log
from gptx.runs import journal
from gptx.runs.folder import RunFolder
from gptx.runs.records import RunStatus
from gptx.sweep.execute import slurm_cluster
from gptx.sweep.execute.launcher import End, Task, force_once
from gptx.sweep.execute.slurm_reports import NodeReport, read_reports
from gptx.sweep.execute.watchdog import LOG, Limits, Watchdog
from gptx.sweep.state.records import AttemptOutcome

_POLL = 0.5  # seconds between two checks of the run's limits
_FIRST_PORT, _PORTS = 10_000, 20_000  # below the ports that a system gives to clients


@dataclass(frozen=True)
class Job:
    """Called on each node of the job, by submitit.

    Attributes:
        overrides: all command-line arguments of the run.
        reports: the folder of the reports.
        nodes: number of nodes; if there are several, each starts a torchrun.
        requeues: how often the job may be requeued at its time limit.
        retry: how often a failed run is retried within the job.
        replaces: uid of the run that was in the folder when the job was submitted; force=true replaces only that one.
    """

    task: Task
    overrides: tuple[str, ...]
    reports: Path
    nodes: int
    requeues: int
    retry: int
    replaces: str
    limits: Limits

    def __call__(self) -> None:
        signals: list[int] = []
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, frame: signals.append(number))
        node, folder = int(os.environ["SLURM_NODEID"]), RunFolder(self.task.folder)
        self._report(node)
        self._wait_until_unlocked(folder.path)
        for _ in range(self.retry + 1):
            end = self._train(node)
            if not end.outcome.can_be_retried or signals:
                break
        if signals and node == 0 and not folder.finished() and journal.status(folder.path) is not RunStatus.FAILED:
            self._after_signal(end)
        else:
            self._report(node, end)

    def _report(self, node: int, end: End | None = None) -> None:
        outcome, reason = (end.outcome, end.reason) if end else (None, "")
        NodeReport(_node_name(), outcome, reason).write(self.reports, job_id(), restarts(), node)

    def _wait_until_unlocked(self, folder: Path) -> None:
        """A job that was just cancelled, or a process on a lost node, may hold the lock of the run for a while."""
        deadline = time.monotonic() + self.limits.grace
        while journal.locked(folder) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _train(self, node: int) -> End:
        """One attempt. The child leads its own session, and Slurm's warnings are blocked until it handles them."""
        log = self.task.folder / "logs" / (LOG if node == 0 else f"node-{node}.log")
        with open_log(log, "ab") as file:
            child = subprocess.Popen(
                self._command(node), stdout=file, stderr=file, start_new_session=True, preexec_fn=block_warning_signals
            )
        watchdog = Watchdog(self.task, child, self.limits, self.replaces)
        while True:
            try:
                return watchdog.end(child.wait(_POLL))
            except subprocess.TimeoutExpired:
                watchdog.check()

    def _command(self, node: int) -> list[str]:
        run = ["-m", "gptx.run", *self.run_overrides()]
        if self.nodes == 1:
            return [sys.executable, *run]
        # Node ranks are given explicitly, because rank 0 must be on the first node. A requeued job uses another port,
        # because processes of its last attempt may still hold the old one.
        port = _FIRST_PORT + (int(os.environ["SLURM_JOB_ID"]) * 8 + restarts()) % _PORTS
        options = [f"--nnodes={self.nodes}", f"--node-rank={node}", f"--master-addr={_first_node()}"]
        options += [f"--master-port={port}", f"--nproc-per-node={self.task.processes // self.nodes}"]
        options += [f"--max-restarts={self.task.restarts}"]
        return [sys.executable, "-m", "torch.distributed.run", *options, *run, "strategy.restarts=0"]

    def run_overrides(self) -> list[str]:
        """The overrides of the next attempt."""
        return force_once(self.overrides, self.task.folder, self.replaces)

    def _after_signal(self, end: End) -> None:
        """On the first node, after a stop signal of Slurm, requeue the job, unless it was cancelled or has used up
        its requeues."""
        state = slurm_cluster.show(job_id())
        if state.get("JobState") != "RUNNING":  # cancelled, or Slurm requeues it
            NodeReport(_node_name(), None, end.reason).write(self.reports, job_id(), restarts(), 0)
            return
        at_time_limit = state.get("PreemptTime", "None") == "None"
        earlier = read_reports(self.reports, job_id())
        if at_time_limit and sum(one.report.requeued_at_limit for one in earlier) >= self.requeues:
            reason = (
                f"reached its time limit after hydra.launcher.requeues={self.requeues} requeues; give the same command "
                "again to continue"
            )
            self._report(0, End(self.task, AttemptOutcome.LIMIT_EXCEEDED, reason))
            return
        report = NodeReport(_node_name(), requeued_at_limit=at_time_limit)
        report.write(self.reports, job_id(), restarts(), 0)
        slurm_cluster.requeue(job_id())


def job_id() -> str:
    """The job of this process, as the queue shows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def restarts() -> int:
    """How often the job has been requeued."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _node_name() -> str:
    return os.environ["SLURMD_NODENAME"]


def _first_node() -> str:
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
