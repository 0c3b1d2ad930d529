"""The jobs of a sweep: which run has which, and how one has ended."""

from pathlib import Path
from typing import Any

from gptx.runs.folder import RunFolder
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.execute.slurm_cluster import State
from gptx.sweep.execute.slurm_job import words
from gptx.sweep.state.folder import Sweep

FOLDER = "slurm"  # of the sweep's: submitit's files, and the jobs' words


def run_of(task: Task) -> str:
    """As a sweep's plan has it: ``study/run``."""
    return f"{task.folder.parent.name}/{task.folder.name}"


def jobs_of(sweep: Sweep) -> dict[str, str]:
    """The newest job of each run."""
    found: dict[str, str] = {}
    for record in sweep.records("submitted"):
        found |= record["jobs"]
    return found


def cancelled_in(sweep: Sweep) -> set[str]:
    """The jobs that `gptx.sweep cancel` has ended: Slurm forgets them."""
    return {job for record in sweep.records("cancelled") for job in record["jobs"]}


def judge(task: Task, job: str, state: State, notes: Path) -> End | None:
    """How a job has ended: by the run's folder, by what its own process said of it, and by what Slurm says.

    None: it has not. Whatever died without a word is seen by Slurm alone, and by whoever asks after it.
    """
    if state.alive and state.name != "COMPLETING":
        return None
    told = words(notes, job)
    bound = next((word for word in told if word.get("bound")), None)  # on whatever node it was
    if end := bound or next((word for word in told[:1] if word.get("end")), None):
        return End(task, str(end["reason"]), bool(end["final"]))
    if state.alive:  # it ends, or is about to be queued again
        return None
    return End(task, "" if RunFolder(task.folder).finished() else _of_slurm(state, told, task))


def _of_slurm(state: State, told: list[dict[str, Any]], task: Task) -> str:
    where = f" on {told[0]['node']}" if told else ""
    known = {
        "": "Slurm does not know its job any more, which left no word",
        "CANCELLED": "cancelled",
        "TIMEOUT": "its time limit came before its checkpoint was written: a longer hydra.launcher.signal_delay may do",
        "OUT_OF_MEMORY": f"out of memory{where}: Slurm killed it",
        "NODE_FAIL": f"its node{where} failed",
    }
    if state.name == "CANCELLED" and told:
        return str(told[0].get("reason") or known["CANCELLED"])
    died = f"its job died without a word{where} (Slurm: {state.name}); see {task.folder}/logs"
    return known.get(state.name, died)
