"""Checkpoints are whole or not there, whatever happens while one is written or to it afterwards."""

import gc
import json
import resource
import shutil
import subprocess
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from command import DEADLINE, OWN, TINY, Done, Gptx, Started, flip, records, the_first, until
from conftest import Maker, Trained
from tiers import some
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter

import gptx as package
from gptx.errors import CheckpointError, ConfigError
from gptx.runs import checkpoint_files
from gptx.training import checkpoint
from gptx.training.checkpoint import Saver, load_tensors
from gptx.training.preflight import preflight
from gptx.training.process import fit
from gptx.training.run_location import locate
from gptx.training.trainer import Trainer


def alike(one: Path, other: Path) -> bool:
    """Two checkpoints hold the same, bit for bit."""
    a, b = load_tensors(one), load_tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def history(folder: Path) -> list[tuple[Any, ...]]:
    """What the journal says of each step, but for the speed."""
    return [
        (r["step"], r["rows"], *((k, v) for k, v in r["values"].items() if not k.startswith("perf/")))
        for r in records(folder, "metrics")
    ]


def same_end(gptx: Gptx, trained: Trained) -> None:
    assert history(gptx.folder) == history(trained.folder)
    last = checkpoint_files.steps(trained.folder / "checkpoints")[-1].name
    assert alike(gptx.folder / "checkpoints" / last, trained.folder / "checkpoints" / last)


def killed(gptx: Gptx, trained: Trained) -> Path:
    """The trained run as a kill after its last checkpoint would have left it; returns its checkpoints."""
    shutil.copytree(trained.gptx.outputs, gptx.outputs)
    (gptx.folder / "result.json").unlink()
    book = gptx.folder / "journal.jsonl"
    lines = [line for line in book.read_text().splitlines(True) if json.loads(line)["kind"] not in ("sample", "end")]
    book.write_text("".join(lines))
    return gptx.folder / "checkpoints"


# ------------------------------------------------------------------------------------ in the background


class Held(FileSystemWriter):
    """Writes when it is let."""

    let = threading.Event()
    begun = threading.Event()
    staged: "weakref.ref[torch.Tensor]"

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        found = super().stage(state_dict)
        Held.staged = weakref.ref(next(iter(found.values())))
        return found

    def write_data(self, plan: Any, planner: Any) -> Any:
        Held.begun.set()
        assert Held.let.wait(DEADLINE)
        return super().write_data(plan, planner)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Held]]:
    Held.let.clear()
    Held.begun.clear()
    monkeypatch.setattr(checkpoint, "FileSystemWriter", Held)
    yield Held
    Held.let.set()


def composed(corpus: Path, tmp_path: Path, *words: str) -> Any:
    return package.compose([*TINY, "data=text", f"data.path={corpus}", f"paths.outputs={tmp_path}", *words])


def test_training_goes_on_while_a_checkpoint_is_written(
    held: type[Held], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written when five more steps are done, and holds what was true when it was asked for."""
    cfg = composed(corpus, tmp_path)
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    for folder in (run, undisturbed):
        folder.mkdir()
    step, then = Trainer.step, run / "checkpoints/step-00000010"

    def watched(trainer: Trainer) -> None:
        if trainer.state.step == 15:
            assert held.begun.wait(DEADLINE) and not then.exists()
            held.let.set()
        step(trainer)

    monkeypatch.setattr(Trainer, "step", watched)
    fit(cfg, str(run), 20)
    fit(cfg, str(undisturbed), 10)
    assert alike(then, undisturbed / "checkpoints/step-00000010")
    # None of its threads stays, so that an interpreter does not wait for them at its end.
    assert until(lambda: not [thread for thread in threading.enumerate() if "heckpoint" in thread.name])


def test_what_was_copied_is_given_free(held: type[Held], tmp_path: Path) -> None:
    saver = Saver(tmp_path, 2, None, True)
    tensors = {"model.a": torch.ones(1000)}
    saver.save(tensors, checkpoint_files.CheckpointMeta(step=1))
    tensors["model.a"].zero_()  # as training would
    assert held.staged() is not None
    held.let.set()
    saver.wait()
    saver.close()

    def free() -> bool:  # soon: the thread that wrote it lets go of it after it has said that it is written
        gc.collect()
        return held.staged() is None

    assert until(free)
    assert load_tensors(tmp_path / "step-00000001")["model.a"].sum() == 1000


def test_an_error_in_the_background_comes_out_at_the_next_save_or_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for next_one in (lambda s: s.save({"model.a": torch.ones(1)}, checkpoint_files.CheckpointMeta(step=2)), Saver.wait):
        saver = Saver(tmp_path / "file" / "checkpoints", 2, None, True)
        saver.save({"model.a": torch.ones(1)}, checkpoint_files.CheckpointMeta(step=1))
        with pytest.raises(CheckpointError, match=r"could not save the checkpoint step-00000001 in .*Not a directory"):
            next_one(saver)
        saver.close()


def test_files_that_other_machines_keep_for_themselves_are_missed(tmp_path: Path) -> None:
    """Else a checkpoint that nobody can read would pass for whole, and the one before it would go."""
    saver = Saver(tmp_path, 2, None, True)
    saver.save({"model.a": torch.ones(1)}, checkpoint_files.CheckpointMeta(step=1))
    saver.wait()
    part = Path(shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000002.part"))
    (part / "__0_0.distcp").unlink()
    written: Future[Any] = Future()
    written.set_result(FileSystemReader(part).read_metadata())
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp is missing: paths\.outputs must be a folder"):
        saver._complete(written, part, tmp_path / "step-00000002", checkpoint_files.CheckpointMeta(step=2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    saver.close()


def test_only_the_last_are_kept_and_none_is_half_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Saver(tmp_path, 2, None, True)

    def save(step: int) -> None:
        saver.save({"model.a": torch.ones(1)}, checkpoint_files.CheckpointMeta(step=step))
        saver.wait()

    for step in (1, 2, 3):
        save(step)
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.steps(tmp_path)] == [2, 3]
    monkeypatch.setattr(
        checkpoint_files.shutil, "rmtree", lambda path, **_: path.joinpath("meta.json").unlink()
    )  # killed
    save(4)
    monkeypatch.undo()
    assert [checkpoint_files.damage(path) for path in checkpoint_files.steps(tmp_path)] == [None, None]
    checkpoint_files.clear(tmp_path, lambda text: pytest.fail(text))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    saver.close()


# --------------------------------------------------------------------------------------------- damage


def test_every_flipped_bit_of_a_small_file_is_seen(trained: Trained, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint_files.steps(trained.folder / "checkpoints")[-1], tmp_path / "step-00000030"))
    assert checkpoint_files.damage(path) is None
    names = sorted(file.name for file in path.iterdir())
    assert names == [".metadata", "__0_0.distcp", "meta.json"]
    for name in names:
        before = (path / name).read_bytes()
        for part in range(100):
            flip(path / name, part / 100)
            assert checkpoint_files.damage(path), (name, part)
            (path / name).write_bytes(before)
    assert checkpoint_files.damage(path) is None


def test_a_run_goes_back_to_what_is_whole(gptx: Gptx, trained: Trained) -> None:
    """The newest is an empty folder, the one before it lacks its end; a kill left halves. Then it begins anew."""
    folder = killed(gptx, trained)
    before, newest = checkpoint_files.steps(folder)
    data = before / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-9])
    shutil.rmtree(newest)
    newest.mkdir()
    for half in (".step-00000040.part", ".step-00000010.old"):
        (folder / half).mkdir()
    done = gptx()
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert "step-00000030 is damaged (meta.json: No such file or directory)" in done.err
    assert f"step-00000020 is damaged (__0_0.distcp has {data_size(folder)} bytes, expected" in done.err
    assert list(folder.glob(".step-*")) == []
    assert [record["step"] for record in records(gptx.folder, "resume")] == [0]
    same_end(gptx, trained)


def data_size(folder: Path) -> int:
    return (folder / "damaged-step-00000020" / "__0_0.distcp").stat().st_size


def test_a_checkpoint_of_another_torch_is_told(gptx: Gptx, trained: Trained) -> None:
    before, newest = checkpoint_files.steps(killed(gptx, trained))
    flip(newest / ".metadata")
    facts = {**json.loads((before / "meta.json").read_text()), "torch": "1.0"}
    (before / "meta.json").write_text(json.dumps({**facts, "seal": checkpoint_files.seal(facts)}))
    done = gptx()
    assert done.code == 0, done.err
    assert "step-00000030 is damaged (the checksum of .metadata is wrong)" in done.err
    told = f"was written by torch 1.0, this is {torch.__version__}: not bitwise reproducible"
    assert told in done.err
    assert told in records(gptx.folder, "event")[-1]["text"]
    assert [record["step"] for record in records(gptx.folder, "resume")] == [20]
    same_end(gptx, trained)


# ----------------------------------------------------------------------------- what cannot be written


def paused(gptx: Gptx, strategy: str, at: int) -> "tuple[Started, list[psutil.Process]]":
    """A run that waits in a step, and its processes that train."""
    (gptx.cwd / "go").unlink(missing_ok=True)
    for left in gptx.cwd.glob("paused-*"):
        left.unlink()
    run = gptx.start(*fragile(strategy), PAUSE_AT=str(at), PAUSE_IN=str(gptx.cwd))
    count = 1 if strategy == "single" else 2
    assert until(lambda: len(list(gptx.cwd.glob("paused-*"))) == count, run), run.communicate()
    return run, [psutil.Process(int((gptx.cwd / f"paused-{rank}").read_text())) for rank in range(count)]


def fragile(strategy: str) -> list[str]:
    return ["--config-dir", str(OWN / "conf"), "kernel=fragile", f"strategy={strategy}"]


def goes_on(gptx: Gptx, run: Started) -> Done:
    (gptx.cwd / "go").touch()
    out, err = run.communicate(timeout=DEADLINE)
    assert "Traceback" not in err, err
    assert gptx.orphans() == []
    return Done(run.returncode, out, err)


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp"])
def test_one_process_cannot_write_its_part(gptx: Gptx, strategy: str) -> None:
    """All of them end, nothing that was saved is harmed, and the same command goes on from it."""
    run, trainers = paused(gptx, strategy, 15)
    saved = the_first(gptx)
    most = (gptx.folder / "journal.jsonl").stat().st_size + 8000  # enough for the journal
    trainers[-1].rlimit(resource.RLIMIT_FSIZE, (most, most))  # type: ignore[attr-defined]
    done = goes_on(gptx, run)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert "could not save the " in last and "File too large" in last, done.err
    assert checkpoint_files.steps(gptx.folder / "checkpoints") == [saved] and checkpoint_files.damage(saved) is None
    assert list((gptx.folder / "checkpoints").glob(".step-*")) == []
    assert gptx(*fragile(strategy)).code == 0
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]


@pytest.fixture
def mounted() -> Iterator[Callable[..., None]]:
    """Mounts a small file system of its own on a folder."""
    mounts: list[Path] = []

    def mount(path: Path, options: str) -> None:
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr}")
        mounts.append(path)

    yield mount
    for path in mounts:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("strategy", some(["single", "fsdp"], "single"))
def test_a_disk_that_is_full(gptx: Gptx, mounted: Callable[..., None], strategy: str) -> None:
    mounted(gptx.outputs, "size=1m")
    run, _ = paused(gptx, strategy, 15)
    saved = the_first(gptx)
    filler = gptx.outputs / "filler"
    with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with open(filler, "r+b") as file:  # the journal and half a checkpoint have room
        file.truncate(filler.stat().st_size - 40_000)
    done = goes_on(gptx, run)
    assert done.code == 1
    assert "could not save the " in done.err.splitlines()[-1] and "No space left on device" in done.err, done.err
    assert checkpoint_files.steps(gptx.folder / "checkpoints") == [saved] and checkpoint_files.damage(saved) is None
    filler.unlink()
    again = gptx(*fragile(strategy))
    assert again.code == 0, again.err
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]


def test_a_folder_that_cannot_be_written(gptx: Gptx, mounted: Callable[..., None]) -> None:
    mounted(gptx.outputs, "ro")
    done = gptx()
    assert done.code == 1
    [line] = done.err.splitlines()
    assert line.startswith("gptx: could not write ") and "Read-only file system" in line


# ------------------------------------------------------------------------------------------ resume_from


STEP_30 = "checkpoints/step-00000030"


@pytest.mark.parametrize(
    "given, what",
    [
        ("nowhere", "there is no run in nowhere"),
        ("{run}/checkpoints/step-00000025", "step-00000025 does not exist: .*has step-00000020, step-00000030"),
        ("{run} trainer.max_steps=30", "max_steps=30 includes the steps .* at step 30: .*max_steps=60"),
        ("{run} model.d_model=32", r"of another model: the shape of embed.weight is \(\d+, 16\), expected \(\d+, 32\)"),
        ("{run} pos=learned", "of another model: it has no pos"),
        (f"{{damaged}}/{STEP_30}", r"step-00000030 is damaged \(the checksum of __0_0.distcp is wrong\)"),
    ],
)
def test_what_cannot_be_begun_from_is_refused(
    trained: Trained, corpus: Path, tmp_path: Path, given: str, what: str
) -> None:
    (tmp_path / "run").symlink_to(trained.folder)
    flip(Path(shutil.copytree(trained.folder, tmp_path / "damaged")) / STEP_30 / "__0_0.distcp")
    place, *more = given.format(run=tmp_path / "run", damaged=tmp_path / "damaged").split()
    with pytest.raises(ConfigError, match=what):
        preflight(composed(corpus, tmp_path, "trainer.max_steps=60", f"resume_from={place}", *more))


def test_a_damaged_one_is_passed_over_and_its_identity_is_of_the_other(
    trained: Trained, corpus: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(trained.folder, tmp_path / "damaged"))
    flip(damaged / "checkpoints/step-00000030/meta.json")
    runs = [damaged, trained.folder / "checkpoints/step-00000020", trained.folder]
    cfgs = [composed(corpus, tmp_path, "trainer.max_steps=60", f"resume_from='{run}'") for run in runs]
    names = [locate(cfg).identity for cfg in cfgs]
    assert names[0] == names[1] != names[2], "where it lies is no part of it; the step is"
    facts = preflight(cfgs[0]).facts
    assert facts.resume_source and facts.resume_source.step == 20
    assert any("using the checkpoint before it" in remark for remark in facts.remarks)


CONSTANT = ("schedule=constant", "schedule.warmup=0")


@pytest.mark.full
def test_a_run_goes_on_in_another_world(make: Maker) -> None:
    """What 4 processes saved under fsdp goes on in 1 and in 2, with the losses of one that was never stopped."""
    gptx = make("worlds")
    source = gptx(*CONSTANT, "strategy=fsdp", "strategy.nproc=4", "trainer.max_steps=20", "study=source")
    assert source.code == 0, source.err
    [begun] = (gptx.outputs / "source").iterdir()
    goes = [*CONSTANT, f"resume_from='{begun}'"]
    undisturbed = losses(gptx, "undisturbed", *CONSTANT)
    for strategy in ("single", "ddp", "fsdp"):
        went = losses(gptx, strategy, *goes, f"strategy={strategy}")
        assert sorted(went) == list(range(21, 31))
        assert went == pytest.approx({step: undisturbed[step] for step in went}, rel=1e-5)
        result = json.loads(next((gptx.outputs / strategy).glob("*/result.json")).read_text())
        assert (result["steps"], result["tokens"]) == (30, 30 * 8 * 16)
        assert result["origin"]["step"] == 20


@pytest.mark.full
def test_in_the_same_world_it_goes_on_bit_for_bit(make: Maker) -> None:
    gptx = make("one world")
    base = [*CONSTANT, "strategy=fsdp", "runtime.log_every=7"]
    whole_way = losses(gptx, "undisturbed", *base)
    assert gptx(*base, "trainer.max_steps=20", "study=source").code == 0
    [begun] = (gptx.outputs / "source").iterdir()
    went = losses(gptx, "on", *base, f"resume_from='{begun}'")
    assert went == {step: whole_way[step] for step in went}
    batches, after = (checksums(gptx, study) for study in ("undisturbed", "on"))
    assert after == {step: batches[step] for step in after}
    ends = [next((gptx.outputs / study).glob("*/checkpoints/step-00000030")) for study in ("undisturbed", "on")]
    assert alike(*ends)


def checksums(gptx: Gptx, study: str) -> dict[int, str]:
    [folder] = (gptx.outputs / study).iterdir()
    return {r["step"]: r["rows"] for r in records(folder, "metrics")}


def losses(gptx: Gptx, study: str, *words: str) -> dict[int, float]:
    done = gptx(*words, f"study={study}")
    assert done.code == 0, done.err
    [folder] = (gptx.outputs / study).iterdir()
    return {r["step"]: r["values"]["train/loss"] for r in records(folder, "metrics")}
