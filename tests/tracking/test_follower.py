"""The process that follows journals and sends their rows to MLflow, also after kills and server failures."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, until
from fake_runs import (
    ask,
    contents,
    database,
    end_record,
    folder,
    lines,
    make_run,
    metric_rows,
    mlflow_is_imported,  # noqa: F401 - a fixture
    result,
    rows_of,
    start,
    trained,
    uid_of,
    write_steps,
)

from gptx.runs.journal import Journal
from gptx.sync import main as sync_main
from gptx.tracking.follower import Follower
from gptx.tracking.mlflow_connection import Store, store_uri
from gptx.tracking.ui_server import free_port, serve

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # from mlflow
TRACKING = {"enabled": True, "uri": "", "follow": True, "wait": 200.0, "experiment": "study", "weights": True}


@pytest.fixture(autouse=True)
def followers_are_ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the followers that a failed test has started."""
    processes: list[subprocess.Popen[bytes]] = []
    original = Follower.__init__

    def record(follower: Follower, process: "subprocess.Popen[bytes]", *others: Any) -> None:
        processes.append(process)
        original(follower, process, *others)

    monkeypatch.setattr(Follower, "__init__", record)
    yield
    for process in processes:
        with process:  # closes its pipe and waits for its end
            process.kill()


def test_no_follower_is_started_if_disabled(tmp_path: Path) -> None:
    for key in ("enabled", "follow"):
        assert Follower.start([tmp_path], {**TRACKING, key: False}, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_follower_module_imports_neither_mlflow_nor_torch() -> None:
    code = "import sys, gptx.tracking.follower; sys.exit(bool({'mlflow', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_follower_sends_rows_during_training(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    run_dir = folder(outputs, uid := os.urandom(16).hex())
    with trained(run_dir), Journal(run_dir) as writer:
        writer.write(start(uid))
        follower = Follower.start([run_dir], TRACKING, outputs)
        assert follower is not None
        write_steps(writer, 1, 5)
        until(lambda: database(outputs).exists() and bool(ask(database(outputs), "select 1 from metrics")))
        write_steps(writer, 6, 9)
        assert contents(database(outputs), uid)["status"] == "RUNNING"
        writer.write(end_record("finished", 9, result(2.0)))
        assert follower.finish() is None
    found = contents(database(outputs), uid)
    assert found["status"] == "FINISHED"
    assert {(key, step, t) for key, _, _, t, step in found["metrics"] if "final" not in key} == rows_of(run_dir)
    assert not list((outputs / ".logs").iterdir())  # an empty log is removed


def test_runs_can_be_added_to_a_follower(tmp_path: Path) -> None:
    """As a search does; each run is added twice."""
    query, outputs = "select 1 from tags where value = ?", tmp_path / "outputs"
    uids = [os.urandom(16).hex() for _ in range(3)]
    follower = Follower.start([], TRACKING, outputs)
    assert follower is not None
    for uid in uids:
        run_dir = folder(outputs, uid)
        with Journal(run_dir) as writer:
            writer.write(start(uid))
            follower.add(run_dir)
            follower.add(run_dir)
            write_steps(writer, 1, 5)
            until(lambda uid=uid: database(outputs).exists() and bool(ask(database(outputs), query, uid)))
            writer.write(end_record("finished", 5, result(2.0)))
    assert follower.finish() is None
    assert [contents(database(outputs), uid)["status"] for uid in uids] == ["FINISHED"] * 3


TRAINER = """
import sys, time
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from fake_runs import start, trained, write_steps
from gptx.runs.journal import Journal
from gptx.tracking.follower import Follower
outputs, run_dir, uid = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with trained(run_dir), Journal(run_dir) as writer:
    writer.write(start(uid))
    tracking = {"enabled": True, "uri": "", "follow": True, "wait": 200, "experiment": "study", "weights": True}
    follower = Follower.start([run_dir], tracking, outputs)
    write_steps(writer, 1, 50)
    print(follower._process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.full
def test_follower_ends_after_sigkill_of_the_trainer_with_status_killed(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    run_dir = folder(outputs, uid := os.urandom(16).hex())
    paths = [str(ROOT), str(ROOT / "tests")]
    command = [sys.executable, "-c", TRAINER, str(outputs), str(run_dir), uid, *paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        try:
            follower = int(trainer.stdout.readline())
            until(lambda: database(outputs).exists())
            os.kill(follower, signal.SIGINT)  # it ignores Ctrl-C, and a cluster's SIGTERM to all processes
            os.kill(follower, signal.SIGTERM)
        finally:
            trainer.kill()
    until(lambda: not alive(follower))
    found = contents(database(outputs), uid)
    assert found["status"] == "KILLED"
    assert {(key, step, t) for key, _, _, t, step in found["metrics"]} == rows_of(run_dir)


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# New stores and servers


OPENER = """
import sys
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from gptx.tracking.mlflow_connection import Store
print("ready", flush=True)
sys.stdin.readline()
print(Store(Path(sys.argv[1])).experiment("study"))
"""


@pytest.mark.full
def test_eight_processes_open_a_new_store_at_the_same_time(tmp_path: Path) -> None:
    """Concurrent migrations of MLflow would leave a database that cannot be repaired."""
    outputs = tmp_path / "outputs"
    (outputs / ".mlflow").mkdir(parents=True)
    (outputs / ".mlflow" / "mlflow.new").write_bytes(b"incomplete, as after a kill during the migrations")
    command = [sys.executable, "-c", OPENER, str(outputs)]
    pipe = subprocess.PIPE
    openers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) for _ in range(8)]
    for opener in openers:
        assert opener.stdout is not None and opener.stdout.readline() == "ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    found = [opener.communicate()[0] for opener in openers]
    assert found == ["1\n"] * 8
    assert [opener.returncode for opener in openers] == [0] * 8


@pytest.mark.full
def test_eight_followers_on_an_empty_store(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    runs = [make_run(outputs, seed=seed) for seed in range(8)]
    followers = [Follower.start([run_dir], TRACKING, outputs) for run_dir in runs]
    assert [follower.finish() for follower in followers if follower] == [None] * 8
    for run_dir in runs:
        found = contents(database(outputs), uid_of(run_dir))
        assert found["status"] == "FINISHED" and found["models"] == [(1,)]
        assert {(key, step, t) for key, _, _, t, step in found["metrics"] if "final" not in key} == rows_of(run_dir)
    names = ask(database(outputs), "select name from experiments where name = 'study'")
    assert len(names) == 1


@pytest.mark.full
def test_restarted_server_gets_every_row(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    served = tmp_path / "server"
    uri = store_uri(served, "")
    Store(served)  # creates its database
    port = free_port("127.0.0.1", 5400)
    run_dir = folder(outputs, uid := os.urandom(16).hex())

    with trained(run_dir), Journal(run_dir) as writer:
        writer.write(start(uid))
        with serve(served, uri, "127.0.0.1", port) as (base, _):
            follower = Follower.start([run_dir], {**TRACKING, "uri": base}, outputs)
            assert follower is not None
            write_steps(writer, 1, 20)
            until(lambda: metric_rows(database(served)) > 0)
        write_steps(writer, 21, 60)
        log = outputs / ".logs" / f"tracking-{os.getpid()}-{run_dir.name}.log"
        until(lambda: "retrying after" in log.read_text())
        with serve(served, uri, "127.0.0.1", port):
            write_steps(writer, 61, 80)
            writer.write(end_record("finished", 80, result(2.0)))
            assert follower.finish() is None
            found = contents(database(served), uid)
            assert found["status"] == "FINISHED" and found["models"] == [(1,)]
            curves = [(key, step, t) for key, _, _, t, step in found["metrics"] if "final" not in key]
            assert len(curves) == len(set(curves)) and set(curves) == rows_of(run_dir)
            assert len(log.read_text().splitlines()) == 1
            assert sync_main([str(outputs), "--uri", base]) == 0
            assert contents(database(served), uid) == found
    assert not (outputs / ".mlflow" / "mlflow.db").exists()


@pytest.mark.full
def test_unreachable_server_is_reported_after_the_wait_and_sync_sends_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    run_dir = make_run(outputs)
    uri = f"http://127.0.0.1:{free_port('127.0.0.1', 5500)}"
    follower = Follower.start([run_dir], {**TRACKING, "uri": uri, "wait": 6.0}, outputs)
    assert follower is not None
    started = time.monotonic()
    warning = follower.finish()
    assert time.monotonic() - started < 60.0
    assert warning is not None and warning.count("\n") == 0
    assert warning.endswith(f"gptx sync {outputs} --uri {uri}")
    assert sync_main([str(outputs), "--uri", uri]) == 1
    assert "cannot open the MLflow store" in capsys.readouterr().err
    assert sync_main([str(outputs)]) == 0
    found = contents(database(outputs), uid_of(run_dir))
    assert {(key, step, t) for key, _, _, t, step in found["metrics"] if "final" not in key} == rows_of(run_dir)
    assert len(lines(run_dir)) == 23
