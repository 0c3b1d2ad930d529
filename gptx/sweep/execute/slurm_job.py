"""What a job of Slurm does on each of its nodes: one run, watched, warned, and put back into the queue.

Slurm's signals reach every process of a job. The run answers them with a checkpoint and ends; then this one asks Slurm
what they meant. A job that dies without a word, and one that Slurm itself starts again, leave their story to Slurm.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gptx.processes.signals import STOP_SIGNALS, block_warning_signals
from gptx.runs import journal
from gptx.runs.files import write_json
from gptx.runs.folder import RunFolder
from gptx.sweep.execute import slurm_cluster
from gptx.sweep.execute.launcher import End, Task, forced_once
from gptx.sweep.execute.watchdog import LOG, Watched

_LOOK = 0.5  # seconds between two looks at the run's bounds
_FIRST_PORT, _PORTS = 10_000, 20_000  # below those that a system gives to clients


@dataclass(frozen=True)
class Job:
    """Called on each node of the job, by submitit.

    Attributes:
        words: the run's, with what is meant for this launcher alone.
        notes: the folder that keeps a word on each attempt.
        nodes: how many; on several, each has a torchrun of its own.
        requeues: how often a time limit may be met.
        retry: how often a run that failed is tried again.
        replaces: the uid of what was in the run's folder when the job was submitted; force=true is about that.
        options: the config's ``sweep``.
    """

    task: Task
    words: tuple[str, ...]
    notes: Path
    nodes: int
    requeues: int
    retry: int
    replaces: str
    options: dict[str, Any]

    def __call__(self) -> None:
        heard: list[int] = []
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, frame: heard.append(number))
        node, folder = int(os.environ["SLURM_NODEID"]), RunFolder(self.task.folder)
        note = self.notes / f"{job_id()}-{attempt()}-{node}.json"
        _write(note)
        self._let_die(folder.path)
        for _ in range(self.retry + 1):
            end, bound = self._run(node)
            if not end.reason or end.final or heard:
                break
        if heard and node == 0 and not folder.finished() and journal.status(folder.path) != "failed":
            self._again(note, end)
        else:
            _write(note, end=True, reason=end.reason, final=end.final, bound=bound)

    def _let_die(self, folder: Path) -> None:
        """What was cancelled a moment ago, or left on a node that was lost, may hold the run for a while yet."""
        deadline = time.monotonic() + self.options["grace"]
        while journal.locked(folder) and time.monotonic() < deadline:
            time.sleep(_LOOK)

    def _run(self, node: int) -> tuple[End, bool]:
        """One attempt, and whether it broke a bound. The child is a session of its own, deaf to warnings until it
        listens."""
        log = self.task.folder / "logs" / (LOG if node == 0 else f"node-{node}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            child = subprocess.Popen(
                self._command(node), stdout=file, stderr=file, start_new_session=True, preexec_fn=block_warning_signals
            )
        watched = Watched(self.task, child, OmegaConf.create(self.options), self.replaces)
        while True:
            try:
                return watched.end(child.wait(_LOOK)), bool(watched.why)
            except subprocess.TimeoutExpired:
                watched.look()

    def _command(self, node: int) -> list[str]:
        run = ["-m", "gptx.run", *self.run_words()]
        if self.nodes == 1:
            return [sys.executable, *run]
        # The rendezvous is static, for rank 0 is to be where the books are kept; a job that is put back into the queue
        # gets another port, for what was left of it may hold the old one still.
        port = _FIRST_PORT + (int(os.environ["SLURM_JOB_ID"]) * 8 + attempt()) % _PORTS
        where = [f"--nnodes={self.nodes}", f"--node-rank={node}", f"--master-addr={_first_node()}"]
        where += [f"--master-port={port}", f"--nproc-per-node={self.task.processes // self.nodes}"]
        where += [f"--max-restarts={self.task.restarts}"]
        return [sys.executable, "-m", "torch.distributed.run", *where, *run, "strategy.restarts=0"]

    def run_words(self) -> list[str]:
        """The run's words, as they are right for it now."""
        return forced_once(self.words, self.task.folder, self.replaces)

    def _again(self, note: Path, end: End) -> None:
        """It was asked to stop, and stands at a checkpoint. Only of a job that still runs this is ours to decide."""
        state = slurm_cluster.show(job_id())
        if state.get("JobState") != "RUNNING":
            _write(note, reason=end.reason)
            return
        limit = state.get("PreemptTime", "None") == "None"  # else somebody else needs the nodes
        before = [_read(path) for path in self.notes.glob(f"{job_id()}-*-0.json")]
        met = sum(word.get("limit", False) for word in before)
        if limit and met >= self.requeues:
            reason = (
                f"met its time limit, and hydra.launcher.requeues={self.requeues} is used up; the same command goes on"
            )
            _write(note, end=True, reason=reason, final=False)
            return
        _write(note, limit=limit)
        slurm_cluster.requeue(job_id())


def job_id() -> str:
    """Of this process's job, as the queue shows it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def attempt() -> int:
    """How often the job has been put back into the queue."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _first_node() -> str:
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def _write(note: Path, **word: Any) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"node": os.environ["SLURMD_NODENAME"], **word})


def words(notes: Path, job: str) -> list[dict[str, Any]]:
    """What was said of a job's last attempt, the first node's word first. ``end``: no other attempt follows."""
    found = {tuple(map(int, path.stem.split("-")[1:])): path for path in notes.glob(f"{job}-*.json")}
    last = max(found, default=(0, 0))[0]
    return [_read(path) for (number, _), path in sorted(found.items()) if number == last]


def _read(note: Path) -> dict[str, Any]:
    word: dict[str, Any] = json.loads(note.read_text())
    return word
