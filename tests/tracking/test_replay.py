"""MLflow gets each row of a journal once, also after kills, interrupted uploads and repetitions."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fake_runs import (
    ask,
    contents,
    database,
    end_record,
    folder,
    make_run,
    mlflow_is_imported,  # noqa: F401 - a fixture
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
from gptx.tracking.mlflow_connection import Store
from gptx.tracking.mlflow_writer import Replay

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # from mlflow


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


def test_mlflow_has_everything_of_a_run(store: Store, outputs: Path) -> None:
    run_dir = make_run(outputs, bpb=1.23456, seed=7)
    found = push(store, outputs, run_dir)
    assert (found["status"], found["name"]) == ("FINISHED", "gqa·rope·full·single·s7")
    curves = {(key, step, t) for key, _, _, t, step in found["metrics"] if not key.startswith("final/")}
    assert curves == rows_of(run_dir)
    final = {key: (value, step) for key, value, _, _, step in found["metrics"] if key.startswith("final/")}
    assert final["final/val_bpb"] == (1.2346, 0)
    assert final["final/tokens_per_s"] == (50_000, 0)
    assert len(final) == 8
    params, tags = dict(found["params"]), dict(found["tags"])
    assert params["attention"] == "gqa" and params["seed"] == "7" and params["optim.betas"] == "[0.9, 0.95]"
    assert params["many.key149"] == "149" and len(params["optim.note"]) == 6000
    assert not any(key.startswith("tracking") for key in params)
    assert tags["gptx.study"] == "study" and tags["mlflow.source.git.commit"] == "c0ffee"
    note = tags["mlflow.note.content"]
    assert "python -m gptx.run attention=gqa" in note and "1.2346" in note
    assert f"gptx generate outputs/study/{run_dir.name} --prompt" in note
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


FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
KINDS = st.lists(RECORD, max_size=12)
CUTS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=4)


@settings(max_examples=4, suppress_health_check=FIXTURES)
@given(kinds=KINDS, cuts=CUTS, finished=st.booleans())
@example(kinds=["metrics", "stop", *5 * ["metrics"], "stop"], cuts=[(0.3125, False)], finished=False)
def test_pushing_a_journal_in_parts_equals_pushing_it_at_once(
    store: Store, outputs: Path, kinds: list[str], cuts: list[tuple[float, bool]], finished: bool
) -> None:
    in_parts_equals_at_once(store, outputs, kinds, cuts, finished)


@pytest.mark.full
@settings(max_examples=25, suppress_health_check=FIXTURES)
@given(kinds=KINDS, cuts=CUTS, finished=st.booleans())
def test_pushing_many_journals_in_parts_equals_pushing_them_at_once(
    store: Store, outputs: Path, kinds: list[str], cuts: list[tuple[float, bool]], finished: bool
) -> None:
    in_parts_equals_at_once(store, outputs, kinds, cuts, finished)


def in_parts_equals_at_once(
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


# gptx sync


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
