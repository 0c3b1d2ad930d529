"""`gptx sweep cancel` on an outputs folder that may come from somebody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_status import fake_sweep, planned

from gptx.runs import journal
from gptx.runs.folder import held
from gptx.sweep.__main__ import main
from gptx.sweep.execute.slurm_cluster import jobs_submitted_from
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import JobsSubmitted

QUEUE = "7_0 7_1 8_0"


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep whose journal names three of the user's jobs, of which Slurm says that 7_0 and 7_1 are of the sweep."""
    runs = [tmp_path / f"outputs/study/run {n}" for n in range(3)]
    jobs = dict(zip((f"study/{run.name}" for run in runs), QUEUE.split(), strict=True))
    sweep = fake_sweep(tmp_path / "outputs", [planned(run, "a") for run in runs], JobsSubmitted(jobs=jobs))
    scripts = [sweep.slurm_folder / "submission_file_a.sh"] * 2 + [tmp_path / "mine/slurm/submission_file_b.sh"]
    tools = {
        "squeue": 'case "$*" in *%o*) cat {0}/scripts;; *) cat {0}/states;; esac',
        "scancel": 'echo "$@" >> {0}/cancelled',
    }
    (tmp_path / "scripts").write_text("".join(f"{j}|{s}\n" for j, s in zip(QUEUE.split(), scripts, strict=True)))
    (tmp_path / "states").write_text("".join(f"{job}|RUNNING|None|n0\n" for job in QUEUE.split()))
    for name, text in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text.format(tmp_path)}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return sweep


def test_only_jobs_that_were_submitted_from_the_folder_are_cancelled(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs_submitted_from(sweep.slurm_folder) == {"7_0", "7_1"}
    assert main(["cancel", "--outputs", str(tmp_path / "outputs")]) == 0
    assert (tmp_path / "cancelled").read_text() == "--quiet 7_0 7_1\n"
    shown = capsys.readouterr()
    assert "ending 2 Slurm jobs" in shown.out
    assert "not cancelled: 8_0, which you have not submitted from" in shown.err and shown.err.count("\n") == 1
    assert sweep.cancelled_jobs() == {"7_0", "7_1"}


def test_copied_sweep_cancels_nothing(sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outputs").rename(tmp_path / "passed on")
    assert main(["cancel", "--outputs", str(tmp_path / "passed on")]) == 0
    assert not (tmp_path / "cancelled").exists()
    shown = capsys.readouterr()
    assert "not cancelled: 7_0, 7_1, 8_0" in shown.err and shown.out == ""


def test_lock_that_names_another_process_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = fake_sweep(tmp_path, [])
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with held(sweep.path, "swept"):
            (sweep.path / journal.LOCK).write_text(f"process {victim.pid} on {os.uname().nodename}")
            assert main(["cancel", "--outputs", str(tmp_path)]) == 1
        assert "is run by another process than the one that" in capsys.readouterr().err
        assert victim.poll() is None
    finally:
        victim.communicate(b"\n")
    assert victim.returncode == 0
