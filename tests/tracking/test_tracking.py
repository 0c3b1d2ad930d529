"""MLflow gets each row of a journal once, also after kills, interrupted uploads, repetitions and server failures."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import until
from fake_runs import (
    ask,
    contents,
    database,
    end_record,
    folder,
    lines,
    make_run,
    result,
    rows_of,
    start,
    trained,
    uid_of,
    write_steps,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gptx.errors import GptxError
from gptx.runs import journal
from gptx.runs.journal import Journal
from gptx.runs.records import EventRecord, MetricsRecord, ResumeRecord, SampleRecord
from gptx.sync import main as sync_main
from gptx.tracking.follower import Follower
from gptx.tracking.mlflow_store import Store, store_uri
from gptx.tracking.mlflow_writer import Replay
from gptx.tracking.ui_server import free_port, serve

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # from mlflow
TRACKING = {"enabled": True, "uri": "", "follow": True, "wait": 200.0, "experiment": "study", "weights": True}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking") / "outputs"


@pytest.fixture(scope="module")
def store(outputs: Path) -> Store:
    return Store(outputs)


def push(store: Store, outputs: Path, run_dir: Path) -> dict[str, Any]:
    """Replay a run from the start of its journal, and return what the database then holds of it."""
    Replay(store, outputs, run_dir).push()
    return contents(database(outputs), uid_of(run_dir))


@pytest.fixture(scope="module", autouse=True)
def mlflow_is_imported() -> None:
    """Import mlflow before the tests: an import during a test with threads and processes would disturb it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("mlflow")


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


def test_mlflow_has_everything_of_a_run(store: Store, outputs: Path) -> None:
    run_dir = make_run(outputs, bpb=1.23456, seed=7)
    found = push(store, outputs, run_dir)
    assert (found["status"], found["name"]) == ("FINISHED", "gqa·rope·full·single·s7")
    curves = {(key, step, t) for key, _, _, t, step in found["metrics"] if not key.startswith("final/")}
    assert curves == rows_of(run_dir)
    final = {key: (value, step) for key, value, _, _, step in found["metrics"] if key.startswith("final/")}
    assert final["final/val_bpb"] == (1.2346, 0)
    assert final["final/tok_s"] == (50_000, 0)
    assert len(final) == 8
    params, tags = dict(found["params"]), dict(found["tags"])
    assert params["attention"] == "gqa" and params["seed"] == "7" and params["optim.betas"] == "[0.9, 0.95]"
    assert params["many.key149"] == "149" and len(params["optim.note"]) == 6000
    assert not any(key.startswith("tracking") for key in params)
    assert tags["gptx.study"] == "study" and tags["mlflow.source.git.commit"] == "c0ffee"
    note = tags["mlflow.note.content"]
    assert "python -m gptx.run attention=gqa" in note and "1.2346" in note
    assert f"gptx generate outputs/study/{run_dir.name}" in note
    assert found["files"] == ["artifacts/config.yaml", "artifacts/result.json", "artifacts/samples/step-00000020.txt"]
    assert found["datasets"] == [(1,)]


def test_best_weights_are_one_logged_model(store: Store, outputs: Path) -> None:
    run_dir = make_run(outputs, study="weights")
    push(store, outputs, run_dir)
    experiment = store.experiment("weights")
    (model,) = store.client.search_logged_models([experiment])
    location = Path(model.artifact_location.removeprefix("file://"))
    names = {path.name for path in location.iterdir()}
    assert {"model.safetensors", "meta.json", "config.yaml", "tokenizer.json"} <= names
    assert str(model.status) == "READY" and model.params["attention"] == "gqa"
    (run,) = store.client.search_runs([experiment])
    assert [out.model_id for out in run.outputs.model_outputs] == [model.model_id]


def test_interrupted_upload_is_completed(store: Store, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(outputs, study="cut")
    finalize = store.client.finalize_logged_model

    def fail(*_: Any) -> None:
        raise OSError("killed here")

    monkeypatch.setattr(store.client, "finalize_logged_model", fail)
    with pytest.raises(OSError, match="killed here"):
        push(store, outputs, run_dir)
    monkeypatch.setattr(store.client, "finalize_logged_model", finalize)
    push(store, outputs, run_dir)
    (model,) = store.client.search_logged_models([store.experiment("cut")])
    assert str(model.status) == "READY"


def test_weights_are_not_sent_if_disabled(store: Store, outputs: Path) -> None:
    run_dir = make_run(outputs)
    Replay(store, outputs, run_dir, weights=False).push()
    assert contents(database(outputs), uid_of(run_dir))["models"] == [(0,)]


def test_nan_and_infinity_are_written_once(store: Store, outputs: Path) -> None:
    run_dir = folder(outputs, uid := "nan" + "0" * 13)
    with Journal(run_dir) as writer:
        writer.write(start(uid))
        for step, value in enumerate((float("nan"), float("inf"), float("-inf"), 1.0)):
            writer.write(MetricsRecord(step=step, values={"train/loss": value}))
    push(store, outputs, run_dir)
    reset_cursor(store, outputs, uid)
    found = push(store, outputs, run_dir)
    assert [bool(is_nan) for _, _, is_nan, _, _ in found["metrics"]] == [True, False, False, False]
    assert len(found["metrics"]) == 4


def reset_cursor(store: Store, outputs: Path, uid: str) -> None:
    """Reset the cursor, as after a kill between the last row and the update of the cursor."""
    (run_id,) = ask(database(outputs), "select run_uuid from tags where key = 'gptx.uid' and value = ?", uid)[0]
    store.client.set_tag(run_id, "gptx.synced", "0")


RECORD = st.sampled_from(["metrics", "metrics", "metrics", "sample", "event", "stop"])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    kinds=st.lists(RECORD, max_size=12),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=4),
    finished=st.booleans(),
)
@example(kinds=["metrics", "stop", *5 * ["metrics"], "stop"], cuts=[(0.3125, False)], finished=False)
def test_pushing_a_journal_in_parts_equals_pushing_it_at_once(
    store: Store, outputs: Path, kinds: list[str], cuts: list[tuple[float, bool]], finished: bool
) -> None:
    """For any division of a journal into pushes, with or without kills before the cursor is written."""
    complete = folder(outputs, complete_uid := os.urandom(16).hex())
    with Journal(complete) as writer:
        writer.write(start(complete_uid))
        for step, kind in enumerate(kinds):
            if kind == "metrics":
                writer.write(MetricsRecord(step=step, values={"train/loss": 1.0 / (step + 1), "val/bpb": 2.0}))
            elif kind == "stop":
                writer.write(end_record("interrupted", step, result(3.0)))
                writer.write(ResumeRecord(step=step))
            else:
                text = "The state"
                writer.write(
                    SampleRecord(step=step, text=text) if kind == "sample" else EventRecord(step=step, text=text)
                )
        if finished:
            writer.write(end_record("finished", len(kinds), result(2.0)))
    expected = push(store, outputs, complete)

    parts = folder(outputs, uid := os.urandom(16).hex())
    data = (complete / journal.NAME).read_bytes().replace(complete_uid.encode(), uid.encode())
    data = data.replace(complete_uid[:8].encode(), uid[:8].encode())
    first = data.index(b"\n") + 1
    for fraction, killed in sorted(cuts):
        cut = first + int(fraction * (len(data) - first))  # may be within a line
        (parts / journal.NAME).write_bytes(data[:cut])
        push(store, outputs, parts)
        if killed:
            reset_cursor(store, outputs, uid)
    (parts / journal.NAME).write_bytes(data)
    found = push(store, outputs, parts)
    again = push(store, outputs, parts)

    assert again == found
    assert json.loads(json.dumps(found).replace(uid, complete_uid).replace(uid[:8], complete_uid[:8])) == json.loads(
        json.dumps(expected)
    )


def test_status_follows_the_run(store: Store, outputs: Path) -> None:
    run_dir = folder(outputs, uid := os.urandom(16).hex())
    with Journal(run_dir) as writer:
        with trained(run_dir):
            writer.write(start(uid))
            write_steps(writer, 1, 3)
            found = push(store, outputs, run_dir)
            assert (found["status"], found["end"] or None) == ("RUNNING", None)
        last = list(journal.read(run_dir))[-1].t
        found = push(store, outputs, run_dir)  # after SIGKILL there is no end record
        assert (found["status"], found["end"]) == ("KILLED", last)
        with trained(run_dir):
            writer.write(ResumeRecord(step=3))
            found = push(store, outputs, run_dir)
            assert (found["status"], found["end"] or None) == ("RUNNING", None)
            writer.write(end_record("interrupted", 3, result(9.0)))
        assert push(store, outputs, run_dir)["status"] == "KILLED"
        writer.write(ResumeRecord(step=3))
        writer.write(end_record("failed", 3, error="loss is not finite"))
        found = push(store, outputs, run_dir)
        assert found["status"] == "FAILED"
        assert "loss is not finite" in dict(found["tags"])["mlflow.note.content"]
        assert not any(key.startswith("final/") for key, *_ in found["metrics"])
        writer.write(ResumeRecord(step=3))
        writer.write(end_record("finished", 4, result(2.0)))
    found = push(store, outputs, run_dir)
    assert found["status"] == "FINISHED"
    assert [value for key, value, *_ in found["metrics"] if key == "final/val_bpb"] == [2.0]


def test_a_replaced_run_is_deleted(store: Store, outputs: Path) -> None:
    old = make_run(outputs, study="replaced")
    push(store, outputs, old)
    new = make_run(outputs, study="replaced", replaces=uid_of(old))
    push(store, outputs, new)
    (run,) = store.client.search_runs([store.experiment("replaced")])
    assert run.data.tags["gptx.uid"] == uid_of(new)
    push(store, outputs, old)  # a late push does not create the replaced run again
    assert len(store.client.search_runs([store.experiment("replaced")])) == 1


def test_push_fails_if_the_folder_holds_another_run(store: Store, outputs: Path) -> None:
    run_dir = make_run(outputs, end=None)
    replay = Replay(store, outputs, run_dir)
    replay.push()
    (run_dir / journal.NAME).rename(run_dir / "renamed")
    with Journal(run_dir) as writer:
        writer.write(start(os.urandom(16).hex()))
    with pytest.raises(GptxError, match="holds another run now"):
        replay.push()


@pytest.mark.parametrize("text", ["", "garbage\n", "[]\n", "{}\n", '{"t": 1, "kind": "metrics"}\n', '{"kind": 1}\n'])
def test_file_that_is_no_journal_is_rejected(store: Store, outputs: Path, text: str, tmp_path: Path) -> None:
    run_dir = outputs / "garbage" / tmp_path.name
    run_dir.mkdir(parents=True)
    (run_dir / journal.NAME).write_text(text)
    with pytest.raises(GptxError, match="is no journal of gptx"):
        Replay(store, outputs, run_dir).push()


def test_sync_sends_each_row_once_and_names_broken_journals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / "outputs"
    runs = [make_run(outputs, seed=seed) for seed in range(3)]
    rows = sum(len(rows_of(run_dir)) for run_dir in runs)
    assert sync_main([str(outputs)]) == 0
    assert f"3 of 3 runs, {rows} rows, {rows} new" in capsys.readouterr().out
    before = [contents(database(outputs), uid_of(run_dir)) for run_dir in runs]
    bad = outputs / "study" / "bad"
    bad.mkdir()
    (bad / journal.NAME).write_text("no journal\n")
    assert sync_main([str(outputs)]) == 1
    text = capsys.readouterr()
    assert f"3 of 4 runs, {rows} rows, 0 new" in text.out and "bad/journal.jsonl is no journal" in text.err
    assert [contents(database(outputs), uid_of(run_dir)) for run_dir in runs] == before
    assert sync_main([str(runs[0])]) == 0  # the store is found from a run and from a study
    assert sync_main([str(outputs / "study")]) == 1
    assert not list(outputs.glob("study/.mlflow")) and not (tmp_path / ".mlflow").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere"], "no such folder: nowhere"),
        (["."], "no run in ."),
        (["outputs", "--uri", "nonsense"], "'nonsense' is not an MLflow store"),
        (["outputs", "--uri", "file:///tmp/x"], "is not an MLflow store"),
    ],
)
def test_mistake_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "outputs":
        make_run(tmp_path / "outputs")
    assert sync_main(arguments) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


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


OPENER = """
import sys
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from gptx.tracking.mlflow_store import Store
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

    def rows() -> int:
        return int(ask(database(served), "select count(*) from metrics")[0][0])

    with trained(run_dir), Journal(run_dir) as writer:
        writer.write(start(uid))
        with serve(served, uri, "127.0.0.1", port) as (base, _):
            follower = Follower.start([run_dir], {**TRACKING, "uri": base}, outputs)
            assert follower is not None
            write_steps(writer, 1, 20)
            until(lambda: rows() > 0)
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
    assert "does not answer" in capsys.readouterr().err
    assert sync_main([str(outputs)]) == 0
    found = contents(database(outputs), uid_of(run_dir))
    assert {(key, step, t) for key, _, _, t, step in found["metrics"] if "final" not in key} == rows_of(run_dir)
    assert len(lines(run_dir)) == 23
