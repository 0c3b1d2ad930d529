"""Query and control Slurm jobs with the command-line tools of Slurm.

Slurm alone notices every end of a job, for example when a node loses power.
"""

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptx.errors import RunFailed

# A job in one of these states is queued, runs, or may run again (COMPLETING: it is ending or being requeued).
ACTIVE = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD"}
ACTIVE |= {"REQUEUE_FED", "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT"}


@dataclass(frozen=True)
class JobState:
    """The state of a job.

    Attributes:
        name: Slurm's name, such as RUNNING or NODE_FAIL; "" if Slurm does not know the job (any more).
        pending_reason: the reason why the job is still queued, as Slurm reports it.
        nodes: the nodes on which it runs.
    """

    name: str = ""
    pending_reason: str = ""
    nodes: str = ""

    @property
    def active(self) -> bool:
        """Whether the job is queued, runs, or may run again."""
        return self.name in ACTIVE


def job_states(jobs: Iterable[str]) -> dict[str, JobState]:
    """The state of each job: from the queue, or from Slurm's accounting if the job has left the queue.

    Raises:
        RunFailed: Slurm is not installed or does not answer.
    """
    asked = set(jobs)
    if not asked:
        return {}
    # All jobs of the user, because squeue fails if none of the requested ones is in the queue.
    queued = {}
    for line in _call("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%N").splitlines():
        job, name, reason, nodes = line.split("|", 3)
        queued[job] = JobState(name, "" if reason == "None" else reason, nodes)
    # Jobs of an array that were cancelled before they started stay in the queue under the number of the array.
    known = {job: queued.get(job) or queued.get(job.partition("_")[0]) for job in asked}
    gone = {job for job, state in known.items() if state is None}
    return {job: state or JobState() for job, state in known.items()} | (_accounting(gone) if gone else {})


def jobs_submitted_from(folder: Path) -> set[str]:
    """The jobs of this user in the queue whose script is in a folder: those that submitit submitted from there.

    Raises:
        RunFailed: Slurm is not installed or does not answer.
    """
    lines = _call("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%o").splitlines()
    scripts = dict(line.split("|", 1) for line in lines if "|" in line)
    return {job for job, script in scripts.items() if Path(script.strip()).parent == folder.resolve()}


def _accounting(jobs: set[str]) -> dict[str, JobState]:
    """Jobs that have left the queue; empty on clusters without accounting."""
    command = ["sacct", "-n", "-X", "-P", "-o", "JobID,State,NodeList", "-j", ",".join(sorted(jobs))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return {}
    rows = [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    # The state may be followed by details, as in "CANCELLED by 1000".
    return {job: JobState(name.split()[0], "", nodes) for job, name, nodes in rows if job in jobs}


def show(job: str) -> dict[str, str]:
    """The fields that ``scontrol show job`` prints."""
    fields = _call("scontrol", "show", "job", "-o", job).split()
    return dict(field.split("=", 1) for field in fields if "=" in field)


def requeue(job: str) -> None:
    """Stop a job and put it back into the queue."""
    _call("scontrol", "requeue", job)


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs. Running ones get SIGTERM, and SIGKILL after the cluster's KillWait."""
    if jobs:
        _call("scancel", "--quiet", *jobs)


def unavailable() -> str:
    """The reason why no Slurm cluster answers, in one line; "" if one answers."""
    try:
        _call("scontrol", "ping")
    except RunFailed as error:
        return str(error)
    return ""


def _call(*command: str) -> str:
    """The output of one of Slurm's tools."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RunFailed(f"Slurm's {command[0]} is not installed here; use a machine of the cluster") from None
    if done.returncode:
        lines = [*done.stdout.splitlines()[:1], *done.stderr.splitlines()]  # the last line has the cause
        last = next(filter(None, map(str.strip, reversed(lines))), f"exit code {done.returncode}")
        raise RunFailed(f"Slurm's {command[0]} failed: {last.removeprefix(f'{command[0]}: ')}")
    return done.stdout
