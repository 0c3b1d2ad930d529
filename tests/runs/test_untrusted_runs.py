"""A run folder is data, never code: payloads that would create a file, given to commands and to gptx.load."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import OWN, OWN_CONF, Gptx, one_line
from conftest import Maker, Trained
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

import gptx as api
from gptx.config.compose import compose
from gptx.config.instantiate import option_class
from gptx.config.overrides import conf_dir
from gptx.config.part_types import BASES, FUNCTIONS
from gptx.config.trust import check_trust
from gptx.errors import CheckpointError, ConfigError, GptxError
from gptx.runs import checkpoint_files
from gptx.runs.checkpoint_files import steps
from gptx.runs.hashing import file_hash
from gptx.sweep.execute.snapshot import copy_code
from gptx.training.checkpoint import load_tensors
from gptx.training.checkpoint_reader import CheckpointReader

EXECUTE = "import pathlib; pathlib.Path({!r}).touch()"


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (EXECUTE.format(str(self.path)),)


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a finished run, as somebody else may have passed it on."""
    folder = tmp_path / "outputs/default/run"
    shutil.copytree(trained.folder, folder)
    return folder


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    (tmp_path / "payload.pkl").write_bytes(pickle.dumps(Touch(tmp_path / "marker")))
    (tmp_path / "payload.py").write_text(EXECUTE.format(str(tmp_path / "marker")))
    return tmp_path / "marker"


def change(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the config of a run."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    edit(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def refused(run: Path, *parts: str, error: type[GptxError] = GptxError) -> None:
    with pytest.raises(error) as raised:
        api.load(run, device="cpu")
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


def calls(marker: Path) -> dict[str, dict[str, Any]]:
    """Groups whose target would create the marker."""
    folder = marker.parent
    return {
        "pandas": {"_target_": "pandas.read_pickle", "filepath_or_buffer": str(folder / "payload.pkl")},
        "psutil": {"_target_": "psutil.Popen", "args": ["touch", str(marker)]},
        "sympy": {"_target_": "sympy.sympify", "a": f"exec({EXECUTE.format(str(marker))!r})"},
        "torch": {"_target_": "torch.serialization.load", "f": str(folder / "payload.pkl"), "weights_only": False},
        "shutil": {"_target_": "shutil.copyfile", "src": str(folder / "payload.py"), "dst": str(marker)},
        "walk": {"_target_": "gptx.config.overrides.os.system", "command": f"touch '{marker}'"},
        "module": {"_target_": "payload.Window"},
    }


PLACES: dict[str, Callable[[dict[str, Any], Any], object]] = {
    "window": lambda config, call: config.update(window=call),
    "optim": lambda config, call: config.update(optim=call | {"_partial_": True}),
    "data": lambda config, call: config.update(data=call),
    "tokenizer": lambda config, call: config.update(tokenizer=call),
    "a key": lambda config, call: config["attention"].update(n_kv_head=call),
    "a list": lambda config, call: config["optim"].update(betas=[0.9, {"inner": [call]}]),
    "a group without a class": lambda config, call: config["trainer"].update(max_steps=call),
    "a new group": lambda config, call: config.update(more={"inner": call}),
}


@pytest.mark.parametrize("name", calls(Path("/marker")))
@pytest.mark.parametrize("place", PLACES)
def test_class_that_the_config_of_a_run_names_is_not_called(
    run: Path, marker: Path, name: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(marker.parent))
    call = calls(marker)[name]
    change(run, lambda config: PLACES[place](config, call))
    refused(run, call["_target_"], error=ConfigError)
    assert not marker.exists()
    assert "payload" not in sys.modules


def test_commands_do_not_call_it_either(run: Path, marker: Path, trained: Trained) -> None:
    change(run, lambda config: config.update(window=calls(marker)["psutil"]))
    for command in ("gptx.generate", "gptx.certify"):
        done = trained.gptx.run(command, str(run))
        one_line(done, "window._target_=psutil.Popen", "--trust psutil", "trust=['psutil']")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            lambda config: config["pos"].update(_target_="gptx.pos.base.NoPE"),
            "not an option of pos",
        ),
        (lambda config: config["window"].update(_target_="gptx.ffn.gelu.GELU"), "not an option of window"),
        (lambda config: config["window"].update(_target_="gptx.window.nothing.Full"), "gptx.window.nothing"),
        (lambda config: config["window"].update(_target_="gptx"), "expected the name of a class with its module"),
        (lambda config: config["window"].update(_target_="gptx./tmp/x.Full"), "expected"),
        (lambda config: config["window"].update(_partial_=True), "window._partial_"),
        (lambda config: config["window"].update(_args_=[1]), "window._args_"),
        (lambda config: config.pop("window"), "it has no window"),
        (lambda config: config.update(window=3), "window=3: expected a group of keys"),
        (lambda config: config.update(study="${oc.env:HOME}"), "is an interpolation"),
        (lambda config: config["model"].update(n_head="${oc.decode:4}"), "is an interpolation"),
        (lambda config: config["model"].pop("n_head"), "n_head"),
    ],
)
def test_config_with_other_parts_is_one_line(run: Path, edit: Any, expected: str) -> None:
    change(run, edit)
    refused(run, expected, error=ConfigError)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "{", "a: &a [1]\nb: *a", "a: !!python/object/apply:os.getcwd []", "a: \udcff", "x: " + "[" * 5000],
)
def test_damaged_config_is_one_line(run: Path, text: str) -> None:
    (run / "config.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(run, "config.yaml is not a config of gptx", error=ConfigError)


def test_every_option_of_gptx_is_allowed() -> None:
    axes = {*BASES, *FUNCTIONS} - {"hydra.launcher"}
    files = [path for axis in axes for path in (conf_dir() / axis).glob("*.yaml")]
    assert len(files) > 60
    cfg = compose()
    for path in files:
        group = yaml.safe_load(path.read_text())
        check_trust({path.parent.name: group}, (), path)
        cfg[path.parent.name] = group
        assert option_class(cfg[path.parent.name]) is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "3",
        '{"class": 3}',
        '{"class": "gptx.tokenizer.byte.Byte"',
        "\udcff",
        '{"class": "payload.E"}',
    ],
)
def test_damaged_tokenizer_is_one_line(run: Path, marker: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(marker.parent))
    (run / "tokenizer.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(run, "tokenizer.json is not a tokenizer of gptx")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("option", "state"),
    [
        ("char", {}),
        ("char", {"characters": 3}),
        ("char", {"characters": ["a", "b"]}),
        ("char", {"characters": "ba"}),
        ("char", {"characters": ""}),
        ("bpe", {}),
        ("bpe", {"ranks": 3}),
        ("bpe", {"ranks": "YQ== YQ=="}),
        ("bpe", {"ranks": "not base64"}),
        ("bpe", {"ranks": "YQ=="}),
    ],
)
def test_tokenizer_with_a_damaged_state_is_one_line(run: Path, option: str, state: dict[str, Any]) -> None:
    group = yaml.safe_load((conf_dir() / "tokenizer" / f"{option}.yaml").read_text())
    change(run, lambda config: config.update(tokenizer=group))
    (run / "tokenizer.json").write_text(json.dumps({"class": group["_target_"], **state}))
    refused(run, "tokenizer.json is not a tokenizer of gptx")


def test_missing_tokenizer_is_one_line(run: Path) -> None:
    (run / "tokenizer.json").unlink()
    refused(run, "tokenizer.json is not a tokenizer of gptx: No such file")


def test_weights_of_another_model_are_one_line(run: Path) -> None:
    change(run, lambda config: config["model"].update(d_model=32))
    refused(run, "the weights are of another model", error=CheckpointError)


def test_tokenizer_in_shared_token_files_is_not_imported(gptx: Gptx) -> None:
    tokens = gptx.cwd / "tokens"
    assert gptx(f"paths.data={tokens}", "runtime.until=10").code == 0
    (gptx.cwd / "payload.py").write_text(EXECUTE.format(str(gptx.cwd / "marker")))
    [file] = tokens.glob("*/tokenizer.json")
    file.write_text(json.dumps({"class": "payload.Evil"}))
    meta = json.loads((file.parent / "meta.json").read_text())
    (file.parent / "meta.json").write_text(json.dumps(meta | {"tokenizer_hash": file_hash(file)}))
    done = gptx(f"paths.data={tokens}", "seed=1", "dry_run=true")
    assert done.code == 0, done.err
    assert not (gptx.cwd / "marker").exists()
    assert json.loads(file.read_text())["class"] == "gptx.tokenizer.byte.Byte", "the files are created again"


# Modules of the user's own


@pytest.fixture(scope="module")
def own(make: Maker) -> Gptx:
    """A run with an attention of the user's own, in tests/own/mine.py."""
    gptx = make("own")
    done = gptx(*OWN_CONF, "attention=scaled", "attention.gain=0.5")
    assert done.code == 0, done.err
    return gptx


def test_own_module_needs_trust(own: Gptx) -> None:
    with pytest.raises(ConfigError, match=r"attention\._target_=mine\.Scaled.*--trust mine .*trust=\['mine'\]"):
        api.load(own.folder, device="cpu")
    with pytest.raises(ConfigError, match="--trust mine"):
        api.load(own.folder, device="cpu", trust=["min", "mine.Scale", "other"])
    one_line(own.run("gptx.generate", str(own.folder)), "mine.Scaled", "--trust mine", "--config-dir")
    one_line(own.run("gptx.certify", str(own.folder)), "mine.Scaled", "--trust mine", "--config-dir")


@pytest.mark.parametrize("allowed", [("--trust", "mine"), OWN_CONF])
def test_trusted_module_generates_and_certifies(own: Gptx, allowed: tuple[str, ...]) -> None:
    done = own.run("gptx.generate", str(own.folder), "--tokens", "5", *allowed)
    assert done.code == 0, done.err
    done = own.run("gptx.certify", str(own.folder), *allowed)
    assert done.code == 0, done.err


def test_trusted_module_is_loaded_in_python(own: Gptx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OWN))
    model, _ = api.load(own.folder, device="cpu", trust=["mine"])
    assert type(model.blocks[0].attention).__name__ == "Scaled"  # type: ignore[union-attr]
    api.load(own.folder, device="cpu", trust="mine")


def test_config_dir_must_exist(own: Gptx) -> None:
    one_line(
        own.run("gptx.generate", str(own.folder), "--config-dir", "nothing"), "--config-dir nothing does not exist"
    )


def test_trusted_module_is_no_way_to_other_classes(own: Gptx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OWN))
    run = tmp_path / "run"
    shutil.copytree(own.folder, run)
    for target in ("mine.os.system", "mine.Path", "mine.sys.exit"):
        change(run, lambda config, target=target: config.update(window={"_target_": target}))  # type: ignore[misc]
        with pytest.raises(ConfigError, match=r"is not a gptx\.window\.base\.Window|No module named 'mine\."):
            api.load(run, device="cpu", trust=["mine"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("attention._target_=gptx", "attention._target_='gptx': expected the name of a class with its module"),
        ("tokenizer._target_=builtins.str", "is not a gptx.tokenizer.base.Tokenizer"),
        ("schedule._target_=os.system", "is not a function or a class"),
    ],
)
def test_class_typed_by_the_user_is_an_option_of_its_axis(gptx: Gptx, override: str, expected: str) -> None:
    one_line(gptx(override), expected)


# Checkpoints


def rewrite(path: Path, metadata: Any) -> None:
    """Replace the metadata of a checkpoint, with correct checksums."""
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    meta = checkpoint_files.meta(path)
    (path / "meta.json").unlink()
    part = path.rename(path.with_name("part"))
    checkpoint_files.finish(part, path, meta)
    assert checkpoint_files.damage(path) is None


def test_metadata_of_checkpoints_is_what_torch_reads(run: Path) -> None:
    for path in steps(run / "checkpoints"):
        ours, theirs = CheckpointReader(path).read_metadata(), FileSystemReader(path).read_metadata()
        assert ours.state_dict_metadata == theirs.state_dict_metadata
        assert ours.storage_data == theirs.storage_data


def test_metadata_of_a_checkpoint_is_not_executed(run: Path, marker: Path, trained: Trained) -> None:
    path = steps(run / "checkpoints")[-1]
    rewrite(path, Touch(marker))
    with pytest.raises(CheckpointError, match=r"not a checkpoint of gptx: its \.metadata names builtins\.exec"):
        load_tensors(path)
    done = trained.gptx("trainer.max_steps=40", f"resume_from={run}")
    one_line(done, "not a checkpoint of gptx")
    rewrite(steps(run / "checkpoints")[0], Touch(marker))
    for words in ((), ("--from", "0")):
        done = trained.gptx.run("gptx.certify", str(run), *words)
        assert done.code == 1 and "not a checkpoint of gptx" in done.err and "Traceback" not in done.err, done.err
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["bytes", "path", "absolute", "dtype", "size", "nested", "list"])
def test_other_content_of_metadata_is_refused(run: Path, marker: Path, kind: str) -> None:
    path = steps(run / "checkpoints")[-1]
    metadata = FileSystemReader(path).read_metadata()
    name, entry = next(iter(metadata.state_dict_metadata.items()))
    place = next(iter(metadata.storage_data.values()))
    if kind == "bytes":  # torch would unpickle the bytes of such an entry
        metadata.state_dict_metadata[name] = BytesStorageMetadata()
    elif kind == "path":
        place.relative_path = "../step-00000020/__0_0.distcp"
    elif kind == "absolute":
        place.relative_path = str(path / "__0_0.distcp")
    elif kind == "dtype":
        entry.properties.dtype = "torch.float32"
    elif kind == "size":
        entry.size = [16, 16]
    elif kind == "nested":
        metadata.planner_data = Touch(marker)
    rewrite(path, [] if kind == "list" else metadata)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of gptx: its \.metadata"):
        load_tensors(path)
    assert not marker.exists()


def test_checkpoint_of_huge_tensors_is_one_line(run: Path) -> None:
    path = steps(run / "checkpoints")[-1]
    metadata = FileSystemReader(path).read_metadata()
    next(iter(metadata.state_dict_metadata.values())).size = torch.Size([10**9, 10**9])
    rewrite(path, metadata)
    with pytest.raises(CheckpointError, match="could not read the checkpoint"):
        load_tensors(path)


def test_file_outside_the_checkpoint_is_not_read(run: Path) -> None:
    path = steps(run / "checkpoints")[-1]
    meta = json.loads((path / "meta.json").read_text())
    meta["files"]["/dev/zero"] = [0, ""]
    (path / "meta.json").write_text(json.dumps(meta | {"seal": checkpoint_files.seal(meta)}))
    assert checkpoint_files.damage(path) == "meta.json names the file '/dev/zero'"


# Where Python looks for modules


@pytest.mark.full
def test_certify_imports_nothing_from_the_folder_above_outputs(ddp: Gptx, tmp_path: Path) -> None:
    """Relative paths of a run's config start there, so certify works there; the folder may be somebody else's."""
    project, marker = tmp_path / "project", tmp_path / "marker"
    shutil.copytree(ddp.outputs, project / "outputs")
    for name in ("multiprocessing", "torch", "struct", "runpy"):
        (project / f"{name}.py").write_text(EXECUTE.format(str(marker)))
    [run] = (project / "outputs/default").glob("mha*")
    done = ddp.run("gptx.certify", str(run))
    assert done.code == 0, done.err
    assert not marker.exists()


def test_copy_of_code_that_somebody_has_changed_is_replaced(tmp_path: Path) -> None:
    copied = copy_code(tmp_path / "code", [], {}).path
    (copied / "gptx/run.py").write_text("raise SystemExit")
    again = copy_code(tmp_path / "code", [], {}).path
    assert again == copied and (again / "gptx/run.py").read_text() != "raise SystemExit"
    assert [path.name for path in (tmp_path / "code").iterdir()] == [os.path.basename(copied)]
