"""``gptx sweep cancel``: end a sweep, its command on this machine and its Slurm jobs.

The folder of a sweep may come from somebody else, so what it says is not enough: a process is ended only if it holds
the lock of the sweep, and a job is cancelled only if Slurm says that this user submitted it from the folder.
"""

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from gptx.cli import log
from gptx.errors import RunFailed
from gptx.regular_files import open_regular
from gptx.runs import journal
from gptx.sweep.commands.status import status_rows
from gptx.sweep.execute import slurm_cluster
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import JobsCancelled
from gptx.terminal import echo


def cancel(sweep: Sweep) -> None:
    """End the running and waiting runs of a sweep.

    Raises:
        RunFailed: the command of the sweep runs on another machine, or Slurm does not answer.
    """
    pid = _command_pid(sweep)
    recorded = [one.job for one in status_rows(sweep) if one.active and one.job] if sweep.jobs() else []
    submitted = slurm_cluster.jobs_submitted_from(sweep.slurm_folder) if recorded else set()
    jobs = [job for job in recorded if job in submitted]
    if pid:  # first, because the command would submit cancelled runs again
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    slurm_cluster.cancel(jobs)
    if jobs:
        with sweep.journal(shared=bool(pid)) as sweep_journal:
            sweep_journal.write(JobsCancelled(jobs=tuple(jobs)))
    if others := [job for job in recorded if job not in submitted]:
        log.warning(
            "not cancelled: %s, which you have not submitted from %s; scancel cancels any job of yours",
            ", ".join(others),
            sweep.path,
        )
    parts = [f"{len(jobs)} Slurm job{'s' if len(jobs) > 1 else ''}"] if jobs else []
    parts += [f"the sweep command (process {pid})"] if pid else []
    if not parts:
        if not others:
            echo(f"{sweep.name}: nothing is running or waiting")
        return
    echo(f"{sweep.name}: ending {' and '.join(parts)}")
    echo("running runs save a checkpoint first; the same command resumes them")


def _command_pid(sweep: Sweep) -> int:
    """The process on this machine that works on the sweep, or 0 if there is none.

    Raises:
        RunFailed: it runs on another machine, or does not hold the lock that names it.
    """
    if not journal.locked(sweep.path):
        return 0
    with open_regular(sweep.path / journal.LOCK) as file:
        holder = file.read().strip()
    found = re.fullmatch(r"process (\d+) on (.+)", holder)
    if not found or found[2] != os.uname().nodename:
        raise RunFailed(f"{sweep.name} is run by {holder}; cancel it on that machine")
    if not _has_opened(int(found[1]), sweep.path / journal.LOCK):
        raise RunFailed(f"{sweep.name} is run by another process than the one that {sweep.path / journal.LOCK} names")
    return int(found[1])


def _has_opened(pid: int, file: Path) -> bool:
    """Whether a process of this user has opened a file."""
    try:
        return str(file.resolve()) in {one.path for one in psutil.Process(pid).open_files()}
    except psutil.Error:
        return False
