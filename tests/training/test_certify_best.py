"""The resume certificate compares the best weights, checks the token files, and names damaged checkpoints."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import Gptx
from conftest import Maker, Trained
from test_certify import certificate

from gptx.runs import checkpoint_files
from gptx.runs.checkpoint_files import META, seal
from gptx.training.best_weights import load_best, save_best


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.folder, tmp_path / "outputs/default/run"))


def test_best_weights_are_compared(run: Path) -> None:
    code, found = certificate(run)
    assert code == 0
    assert found["compared"]["best validation"]["count"] == 14
    assert found["compared"]["best weights"]["count"] > 5


def test_changed_best_weights_are_found(run: Path) -> None:
    weights, header = load_best(run / "checkpoints")
    name = next(iter(weights))
    values = {key: float(value) for key, value in header.items() if key.startswith("val/")}
    save_best(run / "checkpoints", int(header["step"]), {**weights, name: weights[name] * 1.001}, values)
    code, found = certificate(run)
    assert (code, found["first_difference"]["what"]) == (1, name)
    assert found["compared"]["weights"]["differ"] == 0


def test_a_changed_value_of_the_best_weights_is_found(run: Path) -> None:
    weights, header = load_best(run / "checkpoints")
    values = {key: float(value) for key, value in header.items() if key.startswith("val/")}
    save_best(run / "checkpoints", int(header["step"]), weights, values | {"val/bpb": 0.5})
    code, found = certificate(run)
    assert (code, found["first_difference"]["what"]) == (1, "checkpoints/best val/bpb")


def test_missing_or_damaged_best_weights_are_found(run: Path) -> None:
    path = run / "checkpoints/best/model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    code, found = certificate(run)
    assert code == 1 and "model.safetensors is damaged" in found["conclusion"]
    path.unlink()
    code, found = certificate(run)
    assert code == 1 and "no best weights" in found["conclusion"]


def test_a_changed_best_validation_in_the_metadata_is_found(run: Path) -> None:
    path = run / "checkpoints/step-00000030" / META
    found = json.loads(path.read_text())
    found["best"]["val/loss"] -= 0.1
    path.write_text(json.dumps(found | {"seal": seal(found)}))
    assert checkpoint_files.damage(path.parent) is None
    code, result = certificate(run)
    assert (code, result["first_difference"]["what"]) == (1, "best val/loss")


def test_a_damaged_checkpoint_inside_the_steps_is_named(gptx: Gptx) -> None:
    assert gptx("runtime.keep=3").code == 0
    (gptx.folder / "checkpoints/step-00000020/.metadata").unlink()
    for arguments in (["--from", "10"], ["--from", "0"], []):
        done = gptx.run("gptx.certify", str(gptx.folder), *arguments)
        assert done.code == 0, done.err
        assert ("step-00000020 is damaged (.metadata: No such file or directory): ignored" in done.err) == (
            arguments != ["--from", "0"]
        )


@pytest.mark.parametrize("place", ["outputs/.tokens", "tokens"])
def test_changed_token_files_with_an_old_time_are_found_and_created_again(make: Maker, place: str) -> None:
    gptx = make(f"tokens-{Path(place).parent.name}")
    assert gptx(f"paths.data={gptx.cwd / place}").code == 0
    [path] = (gptx.cwd / place).glob("*/train.bin")
    before, status = path.read_bytes(), path.stat()
    ids = np.memmap(path, dtype=np.uint16, mode="r+")
    ids[:1000] = 7
    ids.flush()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = gptx.run("gptx.certify", str(gptx.folder))
    assert done.code == 0, done.err
    if place == "tokens":  # outside the run's outputs
        assert "creating them in a temporary folder" in done.err
        assert path.read_bytes() != before
    else:
        assert "are damaged; creating them again" in done.err
        assert path.read_bytes() == before
