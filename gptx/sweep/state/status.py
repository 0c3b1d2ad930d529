"""How the cells of a sweep stand, whoever runs them: by their folders, the sweep's journal, and Slurm."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gptx.runs import journal
from gptx.runs.folder import RunFolder
from gptx.sweep.execute import slurm_cluster
from gptx.sweep.execute.launcher import Task
from gptx.sweep.execute.slurm_cluster import State
from gptx.sweep.execute.slurm_jobs import FOLDER, cancelled_in, jobs_of, judge
from gptx.sweep.search.halving import decisions, dropped
from gptx.sweep.state.dashboard import Pulse
from gptx.sweep.state.folder import Sweep

ORDER = ("running", "waiting", "finished", "left out", "pruned", "failed", "stopped", "refused", "not started")
_IDLE = ("waiting", "stopped", "not started")


@dataclass(frozen=True)
class Standing:
    """Of one cell.

    Attributes:
        state: one of `ORDER`.
        told: how far it is, or why it is not.
        job: Slurm's number; "": it has none.
    """

    title: str
    folder: Path | None
    state: str
    told: str = ""
    job: str = ""

    @property
    def open(self) -> bool:
        """Whether something is still to come, without anybody's doing."""
        return self.state in ("running", "waiting")


def standings(sweep: Sweep) -> Iterator[Standing]:
    """Of every cell, in the plan's order."""
    plan = sweep.plan  # a search adds to it
    out, pruned = left_out_in(sweep, plan), _pruned(sweep)
    for cell, one in zip(plan["cells"], _by_itself(sweep, plan), strict=True):
        if one.state in _IDLE and one.title in out:
            yield replace(one, state="left out", told=out[one.title])
        elif one.state in _IDLE and one.folder and one.folder.name in pruned:
            yield replace(one, state="pruned", told=f"at {_pulse(cell, one.folder)}")
        else:
            yield one


def left_out_in(sweep: Sweep, plan: dict[str, Any]) -> dict[str, str]:
    """By title, where halving has left runs out."""
    arms: dict[str, list[str]] = {}
    for cell in plan["cells"]:
        arms.setdefault(cell["arm"], []).append(cell["title"])
    return dropped(decisions(sweep.records("begin", "rung"), plan.get("factor", 0)), arms)


def _pruned(sweep: Sweep) -> set[str]:
    """The runs whose newest trial a search has stopped for good."""
    trials = {record["run"]: record["state"] for record in sweep.records("trial")}
    return {run for run, state in trials.items() if state == "PRUNED"}


def _ends(sweep: Sweep, kind: str) -> dict[str, str]:
    """Why runs have ended that are not to be tried again: by the newest command, as each begins with all that is not
    finished; a search does not."""
    found: dict[str, str] = {}
    for record in sweep.records("begin", "end"):
        if record["kind"] == "begin":
            found = found if kind == "optuna" else {}
        elif not record["again"]:
            found[record["run"]] = record["reason"]
    return found


def _by_itself(sweep: Sweep, plan: dict[str, Any]) -> Iterator[Standing]:
    """Of every cell, but for what the sweep has decided about it."""
    jobs = jobs_of(sweep)
    states = slurm_cluster.states(jobs.values()) if jobs else {}
    alive = journal.locked(sweep.path)  # a command is at work on it
    cancelled = cancelled_in(sweep)
    ends = _ends(sweep, plan["kind"])
    for cell in plan["cells"]:
        if cell["refusal"] or not cell["run"]:
            yield Standing(cell["title"], None, "refused", cell["refusal"])
            continue
        folder, job = sweep.outputs / cell["run"], jobs.get(cell["run"], "")
        if job:
            known = State("CANCELLED") if job in cancelled and not states[job].alive else states[job]
            yield _of_job(cell, folder, job, known, sweep.path / FOLDER)
        else:
            yield Standing(cell["title"], folder, *_here(cell, folder, ends.get(folder.name, ""), alive))


def _of_job(cell: dict[str, Any], folder: Path, job: str, state: State, notes: Path) -> Standing:
    end = judge(Task(cell["title"], folder, (), 1, ""), job, state, notes)
    begun = (folder / journal.NAME).exists()
    if end is not None and not end.reason:
        return Standing(cell["title"], folder, *_well(cell, folder), job)
    if state.name == "CANCELLED" or (end and not state.name and begun and journal.status(folder) == "interrupted"):
        where = f"at {_pulse(cell, folder)}" if begun else "before it began"
        return Standing(cell["title"], folder, "stopped", f"{where}; the same command goes on", job)
    if end is not None:
        return Standing(cell["title"], folder, "failed", end.reason, job)
    if state.name in ("RUNNING", "COMPLETING"):
        ending = ", ending" if state.name == "COMPLETING" else ""
        return Standing(cell["title"], folder, "running", f"{_pulse(cell, folder)} on {state.nodes}{ending}", job)
    why = {"BeginTime": "put back into the queue", "": state.name.lower()}.get(state.why, state.why)
    stands = f"at {_pulse(cell, folder)}, " if begun else ""
    return Standing(cell["title"], folder, "waiting", stands + why, job)


def _here(cell: dict[str, Any], folder: Path, reason: str, alive: bool) -> tuple[str, str]:
    """State, and more, of a run of a process pool."""
    begun = (folder / journal.NAME).exists()
    running = begun and journal.locked(folder)  # in this order: its result comes before it lets go
    if RunFolder(folder).finished():
        return "finished", _result(folder)
    status = journal.status(folder) if begun else ""
    if running or status == "running":
        return "running", _pulse(cell, folder)
    stopped = status == "interrupted" and reason.startswith("stopped")  # by whoever stopped the sweep, not by a bound
    if reason and not stopped:
        return "failed", reason
    if alive:
        return "waiting", f"at {_pulse(cell, folder)}" if begun else ""
    if status == "failed":
        result = RunFolder(folder).result()
        return "failed", str(result and result.error)
    return ("stopped", f"at {_pulse(cell, folder)}; the same command goes on") if begun else ("not started", "")


def _pulse(cell: dict[str, Any], folder: Path) -> str:
    pulse = Pulse(folder)
    pulse.look()
    loss = f", val loss {pulse.loss}" if pulse.loss else ""
    return f"step {pulse.step:,} of {cell['steps']:,}{loss}"


def _well(cell: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Of a run that has ended well: at its end, or where ``runtime.until`` asked."""
    if RunFolder(folder).finished():
        return "finished", _result(folder)
    return "stopped", f"as asked, at {_pulse(cell, folder)}"


def _result(folder: Path) -> str:
    result = RunFolder(folder).result()
    return f"val loss {result.val_loss if result and result.val_loss is not None else math.nan:.4f}"
