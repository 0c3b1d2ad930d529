"""The resume certificate passes if a run can be repeated bitwise, and fails if anything was changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Gptx
from conftest import Trained

from gptx import certify
from gptx.runs import checkpoint_files
from gptx.runs.folder import RunFolder
from gptx.training.checkpoint import Saver, load_tensors


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the trained run, which a test may change."""
    return Path(shutil.copytree(trained.folder, tmp_path / "outputs/default/run"))


def certificate(run: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = certify.main([str(run), *arguments])
    return code, json.loads((run / "certificate.json").read_text())


def tamper(path: Path, name: str, factor: float) -> None:
    """Scale one tensor of a checkpoint, and save it with valid checksums."""
    tensors, meta = load_tensors(path), checkpoint_files.meta(path)
    tensors[name] *= factor
    shutil.rmtree(path)
    saver = Saver(path.parent, 9, None, True)
    saver.save(tensors, meta)
    saver.wait()
    saver.close()
    assert checkpoint_files.damage(path) is None


def rewrite(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every record of the journal."""
    path = run / "journal.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for record in found:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in found))


def files(run: Path) -> dict[str, bytes]:
    ignored = ("certificate.json", "run.lock")
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name not in ignored}


def test_repetition_is_bitwise_equal(run: Path, trained: Trained) -> None:
    before = files(run)
    done = trained.gptx.run("gptx.certify", str(run))
    assert (done.code, "Traceback" in done.err) == (0, False), done.err
    assert "steps 20 to 30: bitwise equal" in done.out and "all 10 are equal" in done.out
    assert files(run) == before
    code, found = certificate(run, "--from", "0", "--json")
    assert (code, found["from"], found["to"], found["passed"]) == (0, 0, 20, True)
    assert {what: one["differ"] for what, one in found["compared"].items()} == dict.fromkeys(found["compared"], 0)
    assert found["compared"]["batches"]["count"] == 20 and found["compared"]["moments"]["count"] > 10
    assert found["run"] == [found["again"]] and found["again"]["processes"] == 1
    assert files(run) == before


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_repetition_of_several_processes(gptx: Gptx, strategy: str) -> None:
    assert gptx(f"strategy={strategy}", "model.dropout=0.1").code == 0
    done = gptx.run("gptx.certify", str(gptx.folder), "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["outcome"] == "equal" and found["again"]["processes"] == 2


@pytest.mark.parametrize("step", [20, 30])
@pytest.mark.parametrize("name", ["model.embed.weight", "optim.embed.weight.exp_avg"])
def test_certificate_fails_for_a_changed_checkpoint(run: Path, step: int, name: str) -> None:
    tamper(run / f"checkpoints/step-{step:08d}", name, 1.001)
    code, found = certificate(run)
    assert code == 1 and not found["passed"]
    first = found["first_difference"]
    if step == 30:
        assert (first["step"], first["what"]) == (30, name)
        assert found["compared"]["losses"]["differ"] == 0
    else:  # a changed weight shows in the same step, changed moments in the next one
        assert first["step"] in (21, 22) and "differs from step 2" in found["conclusion"]
    assert 0 < found["compared"]["weights"]["largest"] < 0.1 or name.startswith("optim")
    assert found["compared"]["batches"]["differ"] == 0


def test_certificate_fails_for_an_edited_journal(run: Path) -> None:
    def lower_loss(record: dict[str, Any]) -> None:
        if record["kind"] == "metrics" and record["step"] == 25:
            record["values"]["train/loss"] -= 1e-6

    rewrite(run, lower_loss)
    code, found = certificate(run)
    assert code == 1
    assert found["conclusion"].startswith("differs from step 25 on (train/loss: ")
    assert found["compared"]["weights"]["differ"] == 0


def test_certificate_fails_for_a_changed_text(run: Path, corpus: Path, tmp_path: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text(corpus.read_text().replace("e", "a"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(corpus), str(text)))
    code, found = certificate(run)
    assert code == 1
    assert found["first_difference"]["what"] == "batch" and found["compared"]["batches"]["differ"] == 10
    assert found["corpus_hash"]["run"] != found["corpus_hash"]["again"]


@pytest.mark.parametrize("factor, other, code", [(1 + 1e-6, True, 0), (1 + 1e-6, False, 1), (1.01, True, 1)])
def test_small_differences_pass_on_different_hardware_only(run: Path, factor: float, other: bool, code: int) -> None:
    def rename_hardware(record: dict[str, Any]) -> None:
        if record["kind"] == "start" and other:
            record["hardware"]["name"] = "another processor"

    rewrite(run, rename_hardware)
    tamper(run / "checkpoints/step-00000030", "model.embed.weight", factor)
    got, found = certificate(run)
    assert got == code
    assert found["conclusion"].startswith("within " if not code else "differs from step 30 on (model.embed.weight)")
    assert ("with different hardware" in found["conclusion"]) == other


def test_errors_of_runs_that_cannot_be_repeated(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: str) -> str:
        assert certify.main([str(run), *arguments]) == 2
        [line] = capsys.readouterr().err.splitlines()
        return line

    with RunFolder(run).lock():
        assert "is already being trained" in error()
    assert "expected 0 or 20; the intact checkpoints are of the steps 20, 30" in error("--from", "7")
    (run / "checkpoints/step-00000020/.metadata").unlink()
    assert "step-00000020 is damaged (.metadata: No such file or directory)" in error("--from", "20")
    shutil.rmtree(run / "checkpoints/step-00000020")

    def set_resume_source(record: dict[str, Any]) -> None:
        if record["kind"] == "start":
            record["origin"] = {"identity": "0123456789", "uid": "-", "step": 10}

    rewrite(run, set_resume_source)
    assert "started from step 10 of another run" in error() and "runtime.keep=2" in error()
    (run / "checkpoints/step-00000030/meta.json").write_text("{}")
    assert "no checkpoint to compare with: step-00000030 is damaged" in error()
    shutil.rmtree(run / "checkpoints")
    assert "has no checkpoint to compare with" in error()
    (run / "config.yaml").unlink()
    assert "is not a run folder" in error()
    assert not (run / "certificate.json").exists()
