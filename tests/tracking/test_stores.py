"""Stores in folders with any name, stores that were moved or copied, and stores that cannot be reached or written."""

import os
import shutil
import socket
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_runs import (
    ask,
    contents,
    database,
    make_run,
    mlflow_is_imported,  # noqa: F401 - a fixture
    uid_of,
)

from gptx.errors import ConfigError
from gptx.sync import main as sync_main
from gptx.tracking import mlflow_connection
from gptx.tracking.follower import Follower
from gptx.tracking.mlflow_connection import Store, without_password
from gptx.tracking.sync import outputs_of
from gptx.ui import main as ui_main

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # from mlflow
TRACKING = {"enabled": True, "uri": "", "follow": True, "wait": 200.0, "experiment": "study", "weights": True}


def files(outputs: Path) -> dict[str, set[str]]:
    """The artifacts and the model files of each run of the study, as a client of MLflow finds them."""
    from mlflow.artifacts import list_artifacts

    store = Store(outputs)
    experiment = store.experiment("study")
    found = {}
    for run in store.client.search_runs([experiment]):
        names = {item.path for item in store.client.list_artifacts(run.info.run_id)}
        query = f"source_run_id = '{run.info.run_id}'"
        for model in store.client.search_logged_models([experiment], query):
            names |= {Path(item.path).name for item in list_artifacts(artifact_uri=model.artifact_location)}
        found[run.data.tags["gptx.uid"]] = names
    return found


EVERYTHING = {"config.yaml", "result.json", "samples", "model.safetensors", "meta.json", "tokenizer.json"}


@pytest.mark.parametrize("name", ["out?x", "out#x%20y", "ou t·ü", "a&b=c;d@e:f'g\"h[i]"])
def test_store_in_a_folder_of_any_name(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / name
    run_dir = make_run(outputs)
    assert sync_main([str(outputs)]) == 0, capsys.readouterr().err
    assert contents(database(outputs), uid_of(run_dir))["status"] == "FINISHED"
    assert files(outputs) == {uid_of(run_dir): EVERYTHING}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def ask_in(outputs: Path, query: str) -> Any:
    return ask(database(outputs), query)[0][0]


def test_moved_store_keeps_its_files_and_gets_new_ones(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new place" / "outputs"
    first = uid_of(make_run(old))
    assert sync_main([str(old)]) == 0
    new.parent.mkdir()
    old.rename(new)
    assert files(new) == {first: EVERYTHING}
    second = make_run(new, seed=1)
    assert sync_main([str(new)]) == 0
    assert files(new) == {first: EVERYTHING, uid_of(second): EVERYTHING}
    assert not old.exists()
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
        assert ask_in(new, f"select count(*) from {table} where {column} like '%/old/%'") == 0


def test_copied_store_is_independent(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    first = make_run(old)
    assert sync_main([str(old)]) == 0
    before = database(old).read_bytes()
    shutil.copytree(old, new)
    second = make_run(new, seed=1)
    assert sync_main([str(new)]) == 0
    assert files(new) == {uid_of(first): EVERYTHING, uid_of(second): EVERYTHING}
    assert database(old).read_bytes() == before
    assert len(list((old / ".mlflow" / "artifacts").iterdir())) == 2  # one run, and the models


OUTSIDE = [
    ("experiments", "artifact_location", "file:///etc"),
    ("experiments", "artifact_location", "{artifacts}/../../../elsewhere"),
    ("experiments", "artifact_location", "{artifacts}/%2e%2e/%2e%2e/elsewhere"),
    ("experiments", "artifact_location", "{artifacts}-of-another/1"),
    ("runs", "artifact_uri", "file:///etc"),
    ("runs", "artifact_uri", "/etc"),
    ("runs", "artifact_uri", "file://host/etc"),
    ("runs", "artifact_uri", "s3://bucket/key"),
    ("runs", "artifact_uri", "mlflow-artifacts:/../../etc"),
    ("runs", "artifact_uri", "mlflow-artifacts://host:80/x"),
    ("runs", "artifact_uri", "file:///elsewhere/.mlflow/artifacts/../../etc"),
    ("logged_models", "artifact_location", "http://127.0.0.1/x"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder with a store and one run."""
    outputs = tmp_path_factory.mktemp("shared") / "outputs"
    make_run(outputs)
    assert sync_main([str(outputs)]) == 0
    return outputs


@pytest.mark.parametrize(("table", "column", "address"), OUTSIDE)
def test_address_outside_the_store_is_neither_read_nor_written(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, column: str, address: str
) -> None:
    outputs = Path(shutil.copytree(shared, tmp_path / "outputs"))
    Store(outputs)  # corrects the addresses after the copy
    given = address.format(artifacts=(outputs / ".mlflow/artifacts").as_uri())
    with closing(sqlite3.connect(database(outputs))) as connection, connection:
        connection.execute(f"update {table} set {column} = ?", (given,))
    capsys.readouterr()
    for command in (sync_main, ui_main):
        arguments = [str(outputs)] if command is sync_main else ["--outputs", str(outputs), "--no-sync"]
        assert command(arguments) == 2
        error = capsys.readouterr().err
        assert f"outside its own folder, in {table}.{column}" in error and error.count("\n") == 1
    assert not (tmp_path / "elsewhere").exists()


def test_triggers_views_and_links_in_a_store_are_refused(shared: Path, tmp_path: Path) -> None:
    outputs = Path(shutil.copytree(shared, tmp_path / "outputs"))
    Store(outputs)
    change = "update runs set artifact_uri = 'file:///etc'"
    for name, sql in (
        ("trigger", f"create trigger t after insert on metrics begin {change}; end"),
        ("view", "create view v as select 1"),
    ):
        with closing(sqlite3.connect(database(outputs))) as connection, connection:
            connection.execute(sql)
        with pytest.raises(ConfigError, match=f"has the {name} {name[0]}"):
            Store(outputs)
        with closing(sqlite3.connect(database(outputs))) as connection, connection:
            connection.execute(f"drop {name} {name[0]}")
    Store(outputs)
    (outputs / ".mlflow/artifacts/link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is a symbolic link, which gptx does not follow"):
        Store(outputs)


def test_store_under_a_second_name_is_not_changed(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    make_run(outputs)
    assert sync_main([str(outputs)]) == 0
    before = database(outputs).read_bytes()
    (tmp_path / "link").symlink_to(outputs)
    Store(tmp_path / "link")
    assert database(outputs).read_bytes() == before


def test_empty_default_experiment_is_hidden(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert [one.name for one in store.client.search_experiments()] == []
    assert store.experiment("Default") == "0"
    assert [one.name for one in store.client.search_experiments()] == ["Default"]


def test_outputs_folder_is_found_from_the_runs_below_it(tmp_path: Path) -> None:
    """A store that lies above an outputs folder belongs to other runs."""
    outputs = tmp_path / "project" / "outputs"
    run_dir = make_run(outputs)
    for other in (tmp_path, tmp_path / "project"):
        (other / ".mlflow").mkdir()
    for root in (outputs, run_dir.parent, run_dir):
        assert outputs_of(root) == outputs
    assert sync_main([str(outputs)]) == 0
    assert database(outputs).exists()
    assert not database(tmp_path).exists() and not database(tmp_path / "project").exists()


def test_server_that_never_answers_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlflow_connection._ANSWER <= 10
    monkeypatch.setattr(mlflow_connection, "_ANSWER", 0.05)
    make_run(tmp_path / "outputs")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}"
        assert sync_main([str(tmp_path / "outputs"), "--uri", uri]) == 1
    error = capsys.readouterr().err
    assert "cannot open the MLflow store http://me:***@127.0.0.1" in error and "no answer within" in error
    assert "secret" not in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:p@ss@host/db", "postgresql://me:***@host/db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////a/b:c@d.db", "sqlite:////a/b:c@d.db"),
    ],
)
def test_passwords_of_stores_are_not_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


def test_hint_quotes_the_folder_and_hides_the_password(tmp_path: Path) -> None:
    outputs = tmp_path / "out?x"
    make_run(outputs)
    uri = "http://me:secret@127.0.0.1:9"
    follower = Follower.start([], {**TRACKING, "uri": uri, "wait": 0.0}, outputs)
    assert follower is not None
    hint = follower.finish()
    assert hint is not None and hint.endswith(f"gptx sync '{outputs}' --uri 'http://me:***@127.0.0.1:9'")
    assert "secret" not in hint


@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_follower_does_not_wait_for_a_full_disk(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", outputs], check=False)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        run_dir = make_run(outputs)
        follower = Follower.start([run_dir], {**TRACKING, "wait": 1e6}, outputs)
        assert follower is not None
        hint = follower.finish()  # a test that waits for 1e6 seconds does not end
        assert hint is not None and "is incomplete" in hint
    finally:
        subprocess.run(["umount", "-l", outputs], check=True)
