"""What is read, or told, in the very moment in which somebody else writes: made to happen, not waited for."""

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
from gptx.runs.checkpoint_files import CheckpointMeta
from gptx.runs.files import no_space
from gptx.runs.folder import RunFolder, held
from gptx.runs.journal import Journal
from gptx.runs.json_log import JsonLog
from gptx.runs.records import write_result
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.execute.watchdog import Limits, Watchdog
from gptx.sweep.state.dashboard import Dashboard
from gptx.sweep.state.folder import Sweep
from gptx.sweep.state.records import EndKind
from gptx.sweep.state.status import status_rows


def finish(folder: Path) -> None:
    """As a run does before it lets go of its lock."""
    with Journal(folder) as journal:
        journal.write(end_record("finished", 20, result(2.0)))
    write_result(folder / "result.json", result(2.0))


@pytest.fixture
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that ends just before somebody looks at its lock."""
    folder = make_run(tmp_path, end=None)
    looked = journal.locked

    def look(path: Path) -> bool:
        if path == folder and not (folder / "result.json").exists():
            finish(folder)
        return looked(path)

    monkeypatch.setattr(journal, "locked", look)
    return folder


def test_a_run_that_ends_while_it_is_looked_at_was_not_killed(ending: Path) -> None:
    assert journal.status(ending) == "finished"


def test_nor_is_it_told_as_stopped(ending: Path, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "it")
    sweep.path.mkdir(parents=True)
    cell = {"title": "a", "arm": "a", "words": [], "run": f"study/{ending.name}", "refusal": "", "steps": 20}
    plan = {"command": "again", "kind": "grid", "launcher": "local", "cells": [cell]}
    (sweep.path / "plan.json").write_text(json.dumps(plan))
    assert [row.status for row in status_rows(sweep)] == ["finished"]


@pytest.mark.parametrize("looks", [True, False])
def test_who_only_looks_at_a_lock_keeps_nobody_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    """However long it is held up while it does; who has the lock for itself does."""
    (tmp_path / journal.LOCK).write_text("process 7 on elsewhere")
    passed = iter(range(0, 1000, 2))  # every look at the clock is two seconds after the last
    monkeypatch.setattr("gptx.runs.folder.time.monotonic", lambda: float(next(passed)))
    naps: list[float] = []
    with open(tmp_path / journal.LOCK) as other:
        fcntl.flock(other, fcntl.LOCK_SH if looks else fcntl.LOCK_EX)

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 5:
                fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr("gptx.runs.folder.time.sleep", nap)
        if looks:
            with held(tmp_path, "trained"):
                assert len(naps) == 5
        else:
            with pytest.raises(ConfigError, match="is already being trained, by process 7 on elsewhere"):
                held(tmp_path, "trained").__enter__()


def test_a_line_that_another_one_is_writing_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    for shared, left in ((True, b'{"t": 1, "ki'), (False, b"")):
        path.write_bytes(b'{"t": 1, "ki')
        with JsonLog(tmp_path, shared=shared):
            assert path.read_bytes() == left


def test_a_checkpoint_that_is_removed_while_it_is_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that it is of goes on, and keeps but its newest."""
    folder = make_run(tmp_path, end=None)
    saved = folder / "checkpoints"

    def save(step: int) -> None:
        (saved / ".part").mkdir()
        checkpoint_files.finish(saved / ".part", saved / checkpoint_files.step_name(step), CheckpointMeta(step=step))

    save(10)
    looked = resume_source.damage

    def look(path: Path) -> str | None:
        if checkpoint_files.step_of(path) == 10:
            save(20)
            checkpoint_files.remove(path)
        return looked(path)

    monkeypatch.setattr(resume_source, "damage", look)
    found = resume_source.find(str(folder))
    assert found is not None and (found.step, found.remarks) == (20, ())


def test_the_error_of_a_worker_comes_before_what_its_peers_make_of_it(tmp_path: Path) -> None:
    """Written down in the same instant, or later."""
    for rank, lost, message in ((0, True, "lost another one"), (1, False, "the kernel broke")):
        WorkerFailure(message, retriable=True, connection_lost=lost).write(tmp_path, str(rank))
        record = tmp_path / f"{rank}.json"
        os.utime(record, (100.0 + rank, 100.0 + rank))
    assert str(_root_cause(tmp_path, {0: 1, 1: 1}, 2, tmp_path)) == "the kernel broke"
    (tmp_path / "1.json").unlink()
    said = _root_cause(tmp_path, {0: 1, 1: -9}, 2, tmp_path)
    assert "worker 1 (of 0..1) died (SIGKILL)" in str(said)
    last = _root_cause(tmp_path, {0: 1}, 2, tmp_path)
    assert str(last) == "lost another one" and isinstance(last, WorkerLost)


def test_a_run_that_ends_before_it_was_shown_has_come_as_far_as_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path, steps=10, end="interrupted")
    Dashboard(1, 0, {}, 0.0).run_ended(End(Task("a", folder, (), 1, "cpu"), EndKind.PAUSED), retried=False)
    assert "a: paused at step 10" in capsys.readouterr().err


class Gone:
    """A process that is no more."""

    pid = 2**22 + 1


def test_where_a_run_stands_is_told_when_it_has_ended(tmp_path: Path) -> None:
    """A bound makes it write a checkpoint, which is what it goes on from."""
    folder = make_run(tmp_path, end=None)
    watched = Watchdog(Task("a", folder, (), 1, "cpu"), Gone(), Limits(timeout=1.0), "")
    watched._started -= 61
    watched.check()
    (folder / "checkpoints/step-00000020").mkdir()
    assert watched.end(75).reason == "took longer than sweep.timeout=1 minutes (checkpoint at step 20)"
    assert not RunFolder(folder).finished()


def test_what_is_gone_is_no_error_of_its_own(tmp_path: Path) -> None:
    """A folder that somebody has removed, a disk that is away, an editor's lock beside a module."""
    assert no_space(tmp_path / "gone") == ""
    folder = make_run(tmp_path, end=None)
    (folder / "checkpoints" / checkpoint_files.step_name(10)).symlink_to(tmp_path / "away")
    with pytest.raises(ConfigError, match="none of its checkpoints is intact"):
        resume_source.find(str(folder))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("one = 1")
    before = provenance.source_hash(tmp_path / "package")
    (tmp_path / "package" / ".#mine.py").symlink_to("user@host.1234")
    assert provenance.source_hash(tmp_path / "package") == before


def test_an_installed_plugin_takes_no_option_of_gptx_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's published optuna sweeper has the name of gptx's own."""
    monkeypatch.setattr(overrides, "_is_hydras", lambda group, given: True)
    check_choice("hydra/sweeper=optuna")
    with pytest.raises(ConfigError, match=r"unknown option hydra/sweeper=ax\. hydra/sweeper is one of: grid, optuna\."):
        check_choice("hydra/sweeper=ax")
    for word in ("experiment=null", "~experiment", "no such group" * 40):
        check_choice(word)
    with pytest.raises(ConfigError, match="unknown option pos=null"):
        check_choice("pos=null")
