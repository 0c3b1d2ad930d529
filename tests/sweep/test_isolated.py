"""Computations in isolated processes, and the message about a process that ended without one."""

import shutil
import subprocess
from pathlib import Path

import pytest
from failing_work import failing, process_id

from gptx.sweep.execute.isolated import map_isolated
from gptx.sweep.execute.launcher import Task
from gptx.sweep.execute.watchdog import Limits, Watchdog


@pytest.mark.parametrize("sequential", [True, False])
def test_failing_item_does_not_affect_the_others(sequential: bool) -> None:
    assert map_isolated(failing, range(1), str) == [0]  # the process that the others are forked from has loaded torch
    found = map_isolated(failing, range(7), str, timeout=3.0, sequential=sequential)
    assert (found[0], *found[5:]) == (0, 50, 60)
    assert "(exit code 3)" in found[1]
    assert found[2:5] == ["ArithmeticError: ", "no answer within 3 s", "SystemExit: "]


def test_items_of_different_keys_have_different_processes() -> None:
    found = map_isolated(process_id, [1, 1, 2, 2, 1], str, sequential=True, key=lambda item: item)
    assert found[0] == found[1] and found[2] == found[3] and len(set(found)) == 3


def test_silent_end_on_a_full_disk_names_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["false"], start_new_session=True)
    watchdog = Watchdog(Task("it", tmp_path, (), 1, "cpu"), child, Limits(), "")
    assert child.wait() == 1
    assert watchdog.end(1).reason == "its process ended without an error message (exit code 1)"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=4096))
    assert watchdog.end(1).reason == (
        f"its process ended without an error message (exit code 1): No space left on device in {tmp_path}; "
        "free some space and give the same command again"
    )
