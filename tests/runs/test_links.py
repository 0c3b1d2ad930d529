"""No symbolic link inside a run folder, a sweep or the token cache is followed; the path to them may have links."""

import os
import shutil
from pathlib import Path

import pytest
from command import Gptx, one_line
from conftest import Trained

import gptx as api
from gptx.errors import ConfigError
from gptx.proofs.before_training import _stored
from gptx.regular_files import open_log, open_regular, read_text, refuse_links
from gptx.runs import journal, json_log
from gptx.runs.atomic_files import flocked, write_json
from gptx.runs.folder import RunFolder, held
from gptx.runs.sweep_runs import PLAN
from gptx.sweep.state.folder import Sweep, SweepPlan, find_sweep, sweeps
from gptx.tracking.mlflow_connection import Store

REFUSED = "is a symbolic link, which gptx does not follow"


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    folder = tmp_path / "outputs/default/run"
    shutil.copytree(trained.folder, folder)
    return folder


def replace_by_link(path: Path, outside: Path) -> Path:
    """Move a file or folder out of the run, and leave a link; returns where it is now."""
    target = outside / path.name
    outside.mkdir(exist_ok=True)
    path.rename(target)
    path.symlink_to(target)
    return target


LINKS = [
    "run.lock",
    "config.yaml",
    "tokenizer.json",
    "result.json",
    "journal.jsonl",
    "samples",
    "checkpoints",
    "checkpoints/best",
    "checkpoints/best/model.safetensors",
    "checkpoints/step-00000030",
    "checkpoints/step-00000030/.metadata",
    "checkpoints/step-00000030/__0_0.distcp",
]


@pytest.mark.parametrize("name", LINKS)
def test_link_inside_a_run_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    replace_by_link(run / name, tmp_path / "outside")
    with pytest.raises(ConfigError, match=REFUSED):
        api.load(run, device="cpu")
    with pytest.raises(ConfigError, match=REFUSED), RunFolder(run).lock():
        pass


def test_commands_refuse_links(run: Path, trained: Trained, tmp_path: Path) -> None:
    target = replace_by_link(run / "run.lock", tmp_path / "outside")
    target.write_text("a file of the user")
    for words in (["gptx.certify", str(run)], ["gptx.generate", str(run)]):
        one_line(trained.gptx.run(*words), "run.lock", REFUSED)
    one_line(trained.gptx("trainer.max_steps=40", f"resume_from={run}"), "run.lock", REFUSED)
    assert target.read_text() == "a file of the user"


def test_sync_uploads_no_file_behind_a_link(run: Path, trained: Trained, tmp_path: Path) -> None:
    replace_by_link(run / "config.yaml", tmp_path / "outside").write_text("text-of-a-foreign-file")
    done = trained.gptx.run("gptx.sync", str(tmp_path / "outputs"))
    assert done.code == 1 and REFUSED in done.err, done
    store = tmp_path / "outputs/.mlflow"
    assert not [path for path in store.rglob("*") if path.is_file() and b"text-of-a-foreign-file" in path.read_bytes()]


def test_run_folder_in_a_study_may_not_be_a_link(gptx: Gptx, tmp_path: Path) -> None:
    assert gptx("runtime.until=10").code == 0
    replace_by_link(gptx.folder, tmp_path / "outside")
    one_line(gptx(), REFUSED)


def test_lock_of_a_study_is_not_followed(gptx: Gptx, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("a file of the user")
    target.chmod(0o600)
    (gptx.outputs / "default").mkdir(parents=True)
    (gptx.outputs / "default/.create.lock").symlink_to(target)
    one_line(gptx(), ".create.lock", REFUSED)
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("linked", ["tokens", "file", "lock"])
def test_links_in_token_files_are_refused(gptx: Gptx, tmp_path: Path, linked: str) -> None:
    tokens = gptx.cwd / "tokens"
    assert gptx(f"paths.data={tokens}", "runtime.until=10").code == 0
    [home] = [path for path in tokens.iterdir() if path.is_dir()]
    if linked == "lock":
        shutil.rmtree(home)
    names = {"tokens": home, "file": home / "train.bin", "lock": home.with_suffix(".lock")}
    target = replace_by_link(names[linked], tmp_path / "outside")
    before = target.read_bytes() if target.is_file() else b""
    one_line(gptx(f"paths.data={tokens}", "seed=1"), REFUSED)
    assert target.is_dir() or target.read_bytes() == before


def test_paths_to_a_run_may_have_links(run: Path, trained: Trained, gptx: Gptx, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(run)
    api.load(link, device="cpu")
    assert trained.gptx.run("gptx.certify", str(link)).code == 0
    (tmp_path / "scratch").mkdir()
    gptx.outputs.symlink_to(tmp_path / "scratch")
    assert gptx("runtime.until=10").code == 0
    assert gptx().code == 0
    [folder] = (tmp_path / "scratch/default").glob("mha*")
    assert RunFolder(folder).finished()


def test_listing_follows_links_to_studies_but_not_to_runs(run: Path, tmp_path: Path) -> None:
    outputs = run.parents[1]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(outputs, elsewhere)
    (outputs / "linked-study").symlink_to(elsewhere / "default")
    (outputs / "default/linked-run").symlink_to(elsewhere / "default/run")
    (outputs / "default/loop").symlink_to(outputs)
    assert list(journal.runs(outputs)) == [run, outputs / "linked-study/run"]
    assert list(journal.runs(outputs / "default/linked-run")) == [outputs / "default/linked-run"]


def test_folder_of_a_sweep_and_its_files_may_not_be_links(tmp_path: Path) -> None:
    outputs, outside = tmp_path / "outputs", tmp_path / "outside"
    for name in ("one", "two"):
        sweep = Sweep(outputs, name)
        sweep.path.mkdir(parents=True)
        sweep.save_plan(SweepPlan(study=name))
    replace_by_link(outputs / ".sweeps/one", outside)
    assert [sweep.name for sweep in sweeps(outputs)] == ["two"]
    with pytest.raises(ConfigError, match=REFUSED), Sweep(outputs, "one").work(SweepPlan()):
        pass
    replace_by_link(outputs / ".sweeps/two" / PLAN, outside)
    with pytest.raises(ConfigError, match=REFUSED):
        _ = Sweep(outputs, "two").plan


def test_no_function_opens_a_link_or_a_pipe(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "journal.jsonl"
    target.write_text('{"a": 1}\n')
    link.symlink_to(target)
    (tmp_path / ".x.json.part").symlink_to(target)
    (tmp_path / "run.lock").symlink_to(target)
    (tmp_path / "logs").symlink_to(tmp_path)

    def lock() -> None:
        with held(tmp_path, "tested"):
            pass

    def flock() -> None:
        with flocked(link):
            pass

    for work in (
        lambda: open_regular(link),
        lambda: open_regular(link, "w"),
        lambda: read_text(link, 100),
        lambda: json_log.tail(tmp_path),
        lambda: json_log.JsonLog(tmp_path),
        lambda: json_log.JsonLog(tmp_path, shared=True),
        lambda: write_json(tmp_path / "x.json", {}),
        lambda: journal.locked(tmp_path),
        lambda: open_log(tmp_path / "logs/x", "ab"),
        lambda: refuse_links(tmp_path),
        lock,
        flock,
    ):
        with pytest.raises(ConfigError, match=REFUSED):
            work()
    assert target.read_text() == '{"a": 1}\n'
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is not a regular file"):
        open_regular(tmp_path / "pipe")


def test_linked_folder_of_all_sweeps_is_refused(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "elsewhere", "it")
    sweep.path.mkdir(parents=True)
    sweep.save_plan(SweepPlan(command="again"))
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    (outputs / ".sweeps").symlink_to(sweep.path.parent)
    for given in ("", "it", str(outputs / ".sweeps/it")):
        with pytest.raises(ConfigError, match=REFUSED):
            find_sweep(outputs, given)
    with pytest.raises(ConfigError, match=REFUSED):
        sweeps(outputs)


def test_linked_sweep_that_is_given_by_its_path_is_refused(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "elsewhere", "it")
    sweep.path.mkdir(parents=True)
    sweep.save_plan(SweepPlan(command="again"))
    link = tmp_path / "outputs/.sweeps/it"
    link.parent.mkdir(parents=True)
    link.symlink_to(sweep.path)
    with pytest.raises(ConfigError, match=REFUSED):
        find_sweep(tmp_path / "outputs", str(link))


@pytest.mark.parametrize("name", [".mlflow", ".mlflow/mlflow.db", ".mlflow/artifacts"])
def test_linked_store_is_refused(tmp_path: Path, name: str) -> None:
    link = tmp_path / "outputs" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=REFUSED):
        Store(tmp_path / "outputs")
    assert not (tmp_path / "elsewhere").exists()


def test_linked_results_of_the_check_before_training_are_refused(tmp_path: Path) -> None:
    file, outside = tmp_path / "checks/hash.json", tmp_path / "outside"
    assert _stored(file) is None
    outside.mkdir()
    (outside / "hash.json").write_text('{"failed": []}')
    file.parent.symlink_to(outside)
    with pytest.raises(ConfigError, match=REFUSED):
        _stored(file)
    file.parent.unlink()
    file.parent.mkdir()
    file.symlink_to(outside / "hash.json")
    with pytest.raises(ConfigError, match=REFUSED):
        _stored(file)
    file.unlink()
    file.write_text('{"failed": ["a line"]}')
    assert _stored(file) == ["a line"]
    file.write_text("[" * 100_000)
    assert _stored(file) is None
