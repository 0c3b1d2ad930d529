"""Runs that share a machine are counted, and a comparison says so."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command import Gptx, pausing, records, until, words
from fake_runs import make_run, result

from gptx.compare import comparability
from gptx.compare.run_rows import read_rows
from gptx.runs import machine_runs
from gptx.runs.machine_runs import counted, other_runs
from gptx.runs.preflight_facts import Hardware
from gptx.runs.records import RunStatus, write_result

HOLD = """
import sys
from pathlib import Path
from gptx.runs.machine_runs import counted
with counted(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_living_runs_are_counted_and_killed_ones_are_not(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert other_runs(one) == 0
    with counted(one):
        assert (other_runs(one), other_runs(two)) == (0, 1)
        command = [sys.executable, "-c", HOLD, str(two)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout and other.stdout.readline() == b"held\n"
            assert (other_runs(one), other_runs(two)) == (1, 1)
            other.kill()
        assert other_runs(one) == 0
        assert len(list(next(tmp_path.glob("gptx-runs-*")).iterdir())) == 1  # the file of the killed run is removed
    assert other_runs(two) == 0


def test_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    with counted(tmp_path):
        assert other_runs(tmp_path) is None
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = machine_runs._folder()
    assert folder is not None
    folder.chmod(0o777)
    assert other_runs(tmp_path) is None
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert other_runs(tmp_path) is None


def test_threads_and_other_runs_are_in_the_journal_and_the_result(gptx: Gptx) -> None:
    first = gptx.start(*words("single"), **pausing(gptx, 12))
    assert until(lambda: (gptx.cwd / "paused-0").exists(), first)
    assert gptx("seed=1").code == 0
    (gptx.cwd / "go").touch()
    first.communicate()
    results = {folder.name.split("·")[-1][:2]: folder for folder in gptx.folders()}
    second = records(results["s1"], "end")[0]["result"]
    assert (second["threads"], second["other_runs"]) == (1, 1)
    assert records(results["s1"], "start")[0]["threads"] == 1
    shared = [line["values"].get("perf/other_runs") for line in records(results["s1"], "metrics")]
    assert [value for value in shared if value is not None] == [1.0] * 3  # at each validation
    assert first.returncode == 0 and records(results["s0"], "end")[0]["result"]["other_runs"] in (0, 1)


def test_comparison_warns_of_other_threads_and_of_shared_machines(tmp_path: Path) -> None:
    runs = []
    for seed, (threads, others) in enumerate([(2, 0), (2, 3), (1, 0), (0, None)]):
        runs.append(make_run(tmp_path, seed=seed))
        done = result(2.0, status=RunStatus.FINISHED, threads=threads, other_runs=others)
        write_result(runs[-1] / "result.json", replace(done, hardware=Hardware(device="cpu")))
    assert comparability._speeds(read_rows(runs)) == [
        "tokens/s is not comparable: 1 run used 1, 2 runs used 2 CPU threads per process",
        "tokens/s is not comparable: 1 of 4 runs shared the machine with up to 3 other runs",
    ]
    assert comparability._speeds(read_rows(runs[2:])) == []
