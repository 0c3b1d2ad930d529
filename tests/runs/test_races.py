"""Race conditions between processes that read and write one run, reproduced by patched functions."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from fake_runs import end_record, make_run, result

from gptx.config import overrides
from gptx.config.overrides import check_choice
from gptx.errors import ConfigError
from gptx.processes.workers import WorkerFailure, WorkerLost, _root_cause
from gptx.runs import checkpoint_files, journal, provenance, resume_source
from gptx.runs.atomic_files import no_space
from gptx.runs.checkpoint_files import CheckpointMeta
from gptx.runs.folder import RunFolder, held
from gptx.runs.journal import Journal
from gptx.runs.json_log import JsonLog
from gptx.runs.records import write_result
from gptx.sweep.commands.status import status_rows
from gptx.sweep.execute.dashboard import Dashboard
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.execute.watchdog import Limits, Watchdog
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import AttemptOutcome


def finish(folder: Path) -> None:
    """Write what a run writes before it releases its lock."""
    with Journal(folder) as journal:
        journal.write(end_record("finished", 20, result(2.0)))
    write_result(folder / "result.json", result(2.0))


@pytest.fixture
def ending_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that ends just before another process checks its lock."""
    folder = make_run(tmp_path, end=None)
    is_locked = journal.locked

    def end_then_check(path: Path) -> bool:
        if path == folder and not (folder / "result.json").exists():
            finish(folder)
        return is_locked(path)

    monkeypatch.setattr(journal, "locked", end_then_check)
    return folder


def test_status_of_a_run_that_ends_during_the_check_is_finished(ending_run: Path) -> None:
    assert journal.status(ending_run) == "finished"


def test_sweep_status_of_a_run_that_ends_during_the_check_is_finished(ending_run: Path, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "it")
    sweep.path.mkdir(parents=True)
    cell = {"title": "a", "arm": "a", "words": [], "run": f"study/{ending_run.name}", "refusal": "", "steps": 20}
    plan = {"command": "again", "kind": "grid", "launcher": "local", "cells": [cell]}
    (sweep.path / "plan.json").write_text(json.dumps(plan))
    assert [row.status for row in status_rows(sweep)] == ["finished"]


@pytest.mark.parametrize("reader", [True, False])
def test_lock_waits_for_readers_and_rejects_a_second_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: bool
) -> None:
    """A shared lock of a reader is waited for, however long it lasts; an exclusive lock of another run is an error."""
    (tmp_path / journal.LOCK).write_text("process 7 on elsewhere")
    times = iter(range(0, 1000, 2))  # each reading of the clock is two seconds after the last
    monkeypatch.setattr("gptx.runs.folder.time.monotonic", lambda: float(next(times)))
    sleeps: list[float] = []
    with open(tmp_path / journal.LOCK) as other:
        fcntl.flock(other, fcntl.LOCK_SH if reader else fcntl.LOCK_EX)

        def sleep(seconds: float) -> None:
            sleeps.append(seconds)
            if len(sleeps) == 5:
                fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr("gptx.runs.folder.time.sleep", sleep)
        if reader:
            with held(tmp_path, "trained"):
                assert len(sleeps) == 5
        else:
            with pytest.raises(ConfigError, match="is already being trained, by process 7 on elsewhere"):
                held(tmp_path, "trained").__enter__()


def test_incomplete_line_of_another_writer_is_not_truncated(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    for shared, expected in ((True, b'{"t": 1, "ki'), (False, b"")):
        path.write_bytes(b'{"t": 1, "ki')
        with JsonLog(tmp_path, shared=shared):
            assert path.read_bytes() == expected


def test_resume_from_uses_a_newer_checkpoint_if_the_first_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source run is still training and removes its older checkpoints."""
    folder = make_run(tmp_path, end=None)
    saved = folder / "checkpoints"

    def save(step: int) -> None:
        (saved / ".part").mkdir()
        checkpoint_files.finish(saved / ".part", saved / checkpoint_files.step_name(step), CheckpointMeta(step=step))

    save(10)
    check = resume_source.damage

    def replace_then_check(path: Path) -> str | None:
        if checkpoint_files.step_of(path) == 10:
            save(20)
            checkpoint_files.remove(path)
        return check(path)

    monkeypatch.setattr(resume_source, "damage", replace_then_check)
    found = resume_source.find(str(folder))
    assert found is not None and (found.step, found.remarks) == (20, ())


def test_root_cause_is_the_first_error_and_not_a_lost_connection(tmp_path: Path) -> None:
    """Even if the peers of the failed worker report their lost connection first."""
    for rank, lost, message in ((0, True, "lost another one"), (1, False, "the kernel broke")):
        WorkerFailure(message, retriable=True, connection_lost=lost).write(tmp_path, str(rank))
        record = tmp_path / f"{rank}.json"
        os.utime(record, (100.0 + rank, 100.0 + rank))
    assert str(_root_cause(tmp_path, {0: 1, 1: 1}, 2, tmp_path)) == "the kernel broke"
    (tmp_path / "1.json").unlink()
    cause = _root_cause(tmp_path, {0: 1, 1: -9}, 2, tmp_path)
    assert "worker 1 (of 0..1) died (SIGKILL)" in str(cause)
    last = _root_cause(tmp_path, {0: 1}, 2, tmp_path)
    assert str(last) == "lost another one" and isinstance(last, WorkerLost)


def test_dashboard_shows_the_last_step_of_a_run_that_ended_before_its_first_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, steps=10, end="interrupted")
    Dashboard(1, 0, {}, 0.0).run_ended(End(Task("a", folder, (), 1, "cpu"), AttemptOutcome.PAUSED), retried=False)
    assert "a: paused at step 10" in capsys.readouterr().err


class EndedProcess:
    """A process id that no process has."""

    pid = 2**22 + 1


def test_timeout_message_names_the_last_checkpoint(tmp_path: Path) -> None:
    """The run writes the checkpoint after the watchdog has stopped it."""
    folder = make_run(tmp_path, end=None)
    watched = Watchdog(Task("a", folder, (), 1, "cpu"), EndedProcess(), Limits(timeout=1.0), "")
    watched._started -= 61
    watched.check()
    (folder / "checkpoints/step-00000020").mkdir()
    assert watched.end(75).reason == "took longer than sweep.timeout=1 minutes (checkpoint at step 20)"
    assert not RunFolder(folder).finished()


def test_missing_files_and_broken_links_raise_no_other_error(tmp_path: Path) -> None:
    """A removed folder, a link to a disk that is not mounted, and the lock file of an editor beside a module."""
    assert no_space(tmp_path / "gone") == ""
    folder = make_run(tmp_path, end=None)
    (folder / "checkpoints" / checkpoint_files.step_name(10)).symlink_to(tmp_path / "away")
    with pytest.raises(ConfigError, match="step-00000010 is a symbolic link"):
        resume_source.find(str(folder))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("one = 1")
    before = provenance.source_hash(tmp_path / "package")
    (tmp_path / "package" / ".#mine.py").symlink_to("user@host.1234")
    assert provenance.source_hash(tmp_path / "package") == before


def test_options_of_gptx_remain_if_a_plugin_has_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's published optuna sweeper has the same name as that of gptx."""
    monkeypatch.setattr(overrides, "_is_hydras", lambda group, given: True)
    check_choice("hydra/sweeper=optuna")
    with pytest.raises(ConfigError, match=r"unknown option hydra/sweeper=ax\. hydra/sweeper is one of: grid, optuna\."):
        check_choice("hydra/sweeper=ax")
    for override in ("experiment=null", "~experiment", "no such group" * 40):
        check_choice(override)
    with pytest.raises(ConfigError, match="unknown option pos=null"):
        check_choice("pos=null")
