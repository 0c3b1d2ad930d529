"""What Slurm knows of jobs, and what it is told: by its own commands, the only ones that see every death."""

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gptx.errors import RunFailed

# A job in one of these is still to run, runs, or is about to run again (COMPLETING: it ends, or is being requeued).
ALIVE = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD"}
ALIVE |= {"REQUEUE_FED", "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT"}


@dataclass(frozen=True)
class State:
    """Of a job. ``name``: Slurm's word (RUNNING, NODE_FAIL, ...); "": Slurm does not know it (any more).

    Attributes:
        why: what it waits for.
        nodes: where it runs.
    """

    name: str = ""
    why: str = ""
    nodes: str = ""

    @property
    def alive(self) -> bool:
        return self.name in ALIVE


def states(jobs: Iterable[str]) -> dict[str, State]:
    """How each of these jobs stands: from the queue, and those that have left it from the accounting, if there is one.

    Raises:
        RunFailed: there is no Slurm, or it does not answer.
    """
    asked = set(jobs)
    if not asked:
        return {}
    # All of the user's, for squeue fails where none of the jobs it was asked for is there any more.
    found = {}
    for line in _ask("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%N").splitlines():
        job, name, why, nodes = line.split("|", 3)
        found[job] = State(name, "" if why == "None" else why, nodes)
    # What of an array was cancelled before it began is left in the queue under the array's number alone.
    here = {job: found.get(job) or found.get(job.partition("_")[0]) for job in asked}
    gone = {job for job, state in here.items() if state is None}
    return {job: state or State() for job, state in here.items()} | (_accounted(gone) if gone else {})


def _accounted(jobs: set[str]) -> dict[str, State]:
    """Not every cluster keeps accounts."""
    command = ["sacct", "-n", "-X", "-P", "-o", "JobID,State,NodeList", "-j", ",".join(sorted(jobs))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return {}
    rows = [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {job: State(name.split()[0], "", nodes) for job, name, nodes in rows if job in jobs}  # CANCELLED by 1000


def show(job: str) -> dict[str, str]:
    """All that the controller says of one job."""
    words = _ask("scontrol", "show", "job", "-o", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def requeue(job: str) -> None:
    """It is stopped, and starts again when there is room."""
    _ask("scontrol", "requeue", job)


def cancel(jobs: Sequence[str]) -> None:
    """Those that run get SIGTERM, and the cluster's KillWait to end by themselves."""
    if jobs:
        _ask("scancel", "--quiet", *jobs)


def away() -> str:
    """Why no cluster answers here; "": one does."""
    try:
        _ask("scontrol", "ping")
    except RunFailed as error:
        return str(error)
    return ""


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RunFailed(f"no {command[0]} here: is this a machine of the cluster's?") from None
    if done.returncode:
        said = [*done.stdout.splitlines()[:1], *done.stderr.splitlines()]  # at last, what it could not do
        last = next(filter(None, map(str.strip, reversed(said))), f"exit code {done.returncode}")
        raise RunFailed(f"Slurm's {command[0]} failed: {last.removeprefix(f'{command[0]}: ')}")
    return done.stdout
