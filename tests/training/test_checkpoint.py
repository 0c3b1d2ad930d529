"""Checkpoints are written completely or not at all, and damaged ones are detected."""

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
from composed import COMPOSITIONS
from conftest import Maker, Trained
from tiers import some
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter

from gptx.config.compose import compose
from gptx.errors import CheckpointError, ConfigError
from gptx.runs import checkpoint_files, journal
from gptx.training import checkpoint
from gptx.training.checkpoint import Saver, load_tensors
from gptx.training.preflight import preflight
from gptx.training.rank_process import fit
from gptx.training.run_location import locate
from gptx.training.trainer import Trainer


def equal_tensors(one: Path, other: Path) -> bool:
    """Whether two checkpoints are bitwise equal."""
    a, b = load_tensors(one), load_tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def history(folder: Path) -> list[tuple[Any, ...]]:
    """The metrics of each step in the journal, without the speed."""
    return [
        (r["step"], r["rows"], *((k, v) for k, v in r["values"].items() if not k.startswith("perf/")))
        for r in records(folder, "metrics")
    ]


def assert_same_end(gptx: Gptx, trained: Trained) -> None:
    assert history(gptx.folder) == history(trained.folder)
    last = checkpoint_files.steps(trained.folder / "checkpoints")[-1].name
    assert equal_tensors(gptx.folder / "checkpoints" / last, trained.folder / "checkpoints" / last)


def copy_of_killed_run(gptx: Gptx, trained: Trained) -> Path:
    """Copy the trained run as if killed just after its last checkpoint; return the folder of checkpoints."""
    shutil.copytree(trained.gptx.outputs, gptx.outputs)
    (gptx.folder / "result.json").unlink()
    path = gptx.folder / "journal.jsonl"
    lines = [line for line in path.read_text().splitlines(True) if json.loads(line)["kind"] not in ("sample", "end")]
    path.write_text("".join(lines))
    return gptx.folder / "checkpoints"


# ------------------------------------------------------------------------------------ writing in the background


class BlockedWriter(FileSystemWriter):
    """Waits for the event `proceed` before it writes."""

    proceed = threading.Event()
    started = threading.Event()
    staged: "weakref.ref[torch.Tensor]"

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        staged = super().stage(state_dict)
        BlockedWriter.staged = weakref.ref(next(iter(staged.values())))
        return staged

    def write_data(self, plan: Any, planner: Any) -> Any:
        BlockedWriter.started.set()
        assert BlockedWriter.proceed.wait(DEADLINE)
        return super().write_data(plan, planner)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[BlockedWriter]]:
    BlockedWriter.proceed.clear()
    BlockedWriter.started.clear()
    monkeypatch.setattr(checkpoint, "FileSystemWriter", BlockedWriter)
    yield BlockedWriter
    BlockedWriter.proceed.set()


def config(corpus: Path, tmp_path: Path, *words: str) -> Any:
    return compose([*TINY, "data=text", f"data.path={corpus}", f"paths.outputs={tmp_path}", *words], COMPOSITIONS)


def test_training_continues_while_a_checkpoint_is_written(
    held: type[BlockedWriter], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written five steps later and holds the state of the step in which it was saved."""
    cfg = config(corpus, tmp_path)
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    for folder in (run, undisturbed):
        folder.mkdir()
    step, delayed = Trainer.step, run / "checkpoints/step-00000010"

    def watched(trainer: Trainer) -> None:
        if trainer.state.step == 15:
            assert held.started.wait(DEADLINE) and not delayed.exists()
            held.proceed.set()
        step(trainer)

    monkeypatch.setattr(Trainer, "step", watched)
    fit(cfg, str(run), 20)
    fit(cfg, str(undisturbed), 10)
    assert equal_tensors(delayed, undisturbed / "checkpoints/step-00000010")
    # The threads of the writer have ended: otherwise the interpreter would wait for them at exit.
    assert until(lambda: not [thread for thread in threading.enumerate() if "heckpoint" in thread.name])


def test_copied_tensors_are_freed_after_writing(held: type[BlockedWriter], tmp_path: Path) -> None:
    saver = Saver(tmp_path, 2, None, True)
    tensors = {"model.a": torch.ones(1000)}
    saver.save(tensors, checkpoint_files.CheckpointMeta(step=1))
    tensors["model.a"].zero_()  # as training would
    assert held.staged() is not None
    held.proceed.set()
    saver.wait()
    saver.close()

    def is_freed() -> bool:  # the writing thread drops its reference shortly after it reports the end
        gc.collect()
        return held.staged() is None

    assert until(is_freed)
    assert load_tensors(tmp_path / "step-00000001")["model.a"].sum() == 1000


def test_background_error_is_raised_by_the_next_save_or_wait(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for call in (lambda s: s.save({"model.a": torch.ones(1)}, checkpoint_files.CheckpointMeta(step=2)), Saver.wait):
        saver = Saver(tmp_path / "file" / "checkpoints", 2, None, True)
        saver.save({"model.a": torch.ones(1)}, checkpoint_files.CheckpointMeta(step=1))
        with pytest.raises(CheckpointError, match=r"could not save the checkpoint step-00000001 in .*Not a directory"):
            call(saver)
        saver.close()


def test_checkpoint_with_a_missing_file_of_another_machine_is_rejected(tmp_path: Path) -> None:
    """Otherwise an unreadable checkpoint would count as complete, and the previous one would be removed."""
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


def test_only_the_newest_checkpoints_remain_after_a_kill_during_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tmp_path, 2, None, True)

    def save(step: int) -> None:
        saver.save({"model.a": torch.ones(1)}, checkpoint_files.CheckpointMeta(step=step))
        saver.wait()

    for step in (1, 2, 3):
        save(step)
    assert [checkpoint_files.step_of(path) for path in checkpoint_files.steps(tmp_path)] == [2, 3]
    monkeypatch.setattr(
        checkpoint_files.shutil, "rmtree", lambda path, **_: path.joinpath("meta.json").unlink()
    )  # killed during removal
    save(4)
    monkeypatch.undo()
    assert [checkpoint_files.damage(path) for path in checkpoint_files.steps(tmp_path)] == [None, None]
    checkpoint_files.clear(tmp_path, lambda text: pytest.fail(text))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    saver.close()


# --------------------------------------------------------------------------------------------- damage


def test_flipped_bits_of_every_file_are_detected(trained: Trained, tmp_path: Path) -> None:
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


def test_run_restarts_at_step_0_if_all_checkpoints_are_damaged(gptx: Gptx, trained: Trained) -> None:
    """The newest is an empty folder, the data of the one before is truncated, and a kill left temporary folders."""
    folder = copy_of_killed_run(gptx, trained)
    before, newest = checkpoint_files.steps(folder)
    data = before / "__0_0.distcp"
    data.write_bytes(data.read_bytes()[:-9])
    shutil.rmtree(newest)
    newest.mkdir()
    for name in (".step-00000040.part", ".step-00000010.old"):
        (folder / name).mkdir()
    done = gptx()
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert "step-00000030 is damaged (meta.json: No such file or directory)" in done.err
    assert f"step-00000020 is damaged (__0_0.distcp has {data_size(folder)} bytes, expected" in done.err
    assert list(folder.glob(".step-*")) == []
    assert [record["step"] for record in records(gptx.folder, "resume")] == [0]
    assert_same_end(gptx, trained)


def data_size(folder: Path) -> int:
    return (folder / "damaged-step-00000020" / "__0_0.distcp").stat().st_size


def test_resume_from_a_checkpoint_of_another_torch_version_is_reported(gptx: Gptx, trained: Trained) -> None:
    before, newest = checkpoint_files.steps(copy_of_killed_run(gptx, trained))
    flip(newest / ".metadata")
    facts = {**json.loads((before / "meta.json").read_text()), "torch": "1.0"}
    (before / "meta.json").write_text(json.dumps({**facts, "seal": checkpoint_files.seal(facts)}))
    done = gptx()
    assert done.code == 0, done.err
    assert "step-00000030 is damaged (the checksum of .metadata is wrong)" in done.err
    message = f"was written by torch 1.0, this is {torch.__version__}: not bitwise reproducible"
    assert message in done.err
    assert message in records(gptx.folder, "event")[-1]["text"]
    assert [record["step"] for record in records(gptx.folder, "resume")] == [20]
    assert_same_end(gptx, trained)


# ----------------------------------------------------------------------------- failures of writing


def paused(gptx: Gptx, strategy: str, at: int) -> "tuple[Started, list[psutil.Process]]":
    """Start a run, and return it with its training processes when all of them pause in a step."""
    (gptx.cwd / "go").unlink(missing_ok=True)
    for marker in gptx.cwd.glob("paused-*"):
        marker.unlink()
    run = gptx.start(*fragile(strategy), PAUSE_AT=str(at), PAUSE_IN=str(gptx.cwd))
    count = 1 if strategy == "single" else 2
    assert until(lambda: len(list(gptx.cwd.glob("paused-*"))) == count, run), run.communicate()
    return run, [psutil.Process(int((gptx.cwd / f"paused-{rank}").read_text())) for rank in range(count)]


def fragile(strategy: str) -> list[str]:
    return ["--config-dir", str(OWN / "conf"), "kernel=fragile", f"strategy={strategy}"]


def end_of_paused(gptx: Gptx, run: Started) -> Done:
    (gptx.cwd / "go").touch()
    out, err = run.communicate(timeout=DEADLINE)
    assert "Traceback" not in err, err
    assert gptx.orphans() == []
    return Done(run.returncode, out, err)


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp"])
def test_run_fails_and_resumes_if_one_process_cannot_write(gptx: Gptx, strategy: str) -> None:
    """All processes end, the saved checkpoint is intact, and the same command resumes from it."""
    run, trainers = paused(gptx, strategy, 15)
    saved = the_first(gptx)
    limit = (gptx.folder / "journal.jsonl").stat().st_size + 8000  # enough for the journal
    trainers[-1].rlimit(resource.RLIMIT_FSIZE, (limit, limit))  # type: ignore[attr-defined]
    done = end_of_paused(gptx, run)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert "could not save the " in last and "File too large" in last, done.err
    assert checkpoint_files.steps(gptx.folder / "checkpoints") == [saved] and checkpoint_files.damage(saved) is None
    assert list((gptx.folder / "checkpoints").glob(".step-*")) == []
    assert gptx(*fragile(strategy)).code == 0
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]


@pytest.fixture
def mounted() -> Iterator[Callable[..., None]]:
    """A function that mounts a small file system on a folder."""
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
def test_run_fails_on_a_full_disk_and_resumes_when_there_is_space(
    gptx: Gptx, mounted: Callable[..., None], strategy: str
) -> None:
    mounted(gptx.outputs, "size=1m")
    run, _ = paused(gptx, strategy, 15)
    saved = the_first(gptx)
    filler = gptx.outputs / "filler"
    with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with open(filler, "r+b") as file:  # space for the journal and half a checkpoint
        file.truncate(filler.stat().st_size - 40_000)
    done = end_of_paused(gptx, run)
    assert done.code == 1
    assert "could not save the " in done.err.splitlines()[-1] and "No space left on device" in done.err, done.err
    assert checkpoint_files.steps(gptx.folder / "checkpoints") == [saved] and checkpoint_files.damage(saved) is None
    filler.unlink()
    again = gptx(*fragile(strategy))
    assert again.code == 0, again.err
    assert [record["step"] for record in records(gptx.folder, "resume")] == [10]


def test_read_only_outputs_are_reported_in_one_line(gptx: Gptx, mounted: Callable[..., None]) -> None:
    mounted(gptx.outputs, "ro")
    done = gptx()
    assert done.code == 1
    [line] = done.err.splitlines()
    assert line.startswith("gptx: could not write ") and "Read-only file system" in line


# ------------------------------------------------------------------------------------------ resume_from


STEP_30 = "checkpoints/step-00000030"


@pytest.mark.parametrize(
    "given, message",
    [
        ("nowhere", "there is no run in nowhere"),
        ("{run}/checkpoints/step-00000025", "step-00000025 does not exist: .*has step-00000020, step-00000030"),
        ("{run} trainer.max_steps=30", "max_steps=30 includes the steps .* at step 30: .*max_steps=60"),
        ("{run} model.d_model=32", r"of another model: the shape of embed.weight is \(\d+, 16\), expected \(\d+, 32\)"),
        ("{run} pos=learned", "of another model: it has no pos"),
        (f"{{damaged}}/{STEP_30}", r"step-00000030 is damaged \(the checksum of __0_0.distcp is wrong\)"),
    ],
)
def test_unusable_resume_from_is_rejected(
    trained: Trained, corpus: Path, tmp_path: Path, given: str, message: str
) -> None:
    (tmp_path / "run").symlink_to(trained.folder)
    flip(Path(shutil.copytree(trained.folder, tmp_path / "damaged")) / STEP_30 / "__0_0.distcp")
    source, *more = given.format(run=tmp_path / "run", damaged=tmp_path / "damaged").split()
    with pytest.raises(ConfigError, match=message):
        preflight(config(corpus, tmp_path, "trainer.max_steps=60", f"resume_from={source}", *more))


def test_identity_depends_on_the_intact_checkpoint_that_resume_from_uses(
    trained: Trained, corpus: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(trained.folder, tmp_path / "damaged"))
    flip(damaged / "checkpoints/step-00000030/meta.json")
    runs = [damaged, trained.folder / "checkpoints/step-00000020", trained.folder]
    cfgs = [config(corpus, tmp_path, "trainer.max_steps=60", f"resume_from='{run}'") for run in runs]
    identities = [locate(cfg).identity for cfg in cfgs]
    assert identities[0] == identities[1] != identities[2], "the step counts, the path does not"
    facts = preflight(cfgs[0]).facts
    assert facts.resume_source and facts.resume_source.step == 20
    assert any("using the checkpoint before it" in remark for remark in facts.remarks)


CONSTANT = ("schedule=constant", "schedule.warmup=0")


@pytest.mark.full
def test_resume_from_with_another_number_of_processes_gives_close_losses(make: Maker) -> None:
    """1 or 2 processes continue a checkpoint of 4 processes under fsdp with the losses of an uninterrupted run."""
    gptx = make("process counts")
    source = gptx(*CONSTANT, "strategy=fsdp", "strategy.nproc=4", "trainer.max_steps=20", "study=source")
    assert source.code == 0, source.err
    [source_folder] = journal.runs(gptx.outputs / "source")
    resumed = [*CONSTANT, f"resume_from='{source_folder}'"]
    undisturbed = losses(gptx, "undisturbed", *CONSTANT)
    for strategy in ("single", "ddp", "fsdp"):
        found = losses(gptx, strategy, *resumed, f"strategy={strategy}")
        assert sorted(found) == list(range(21, 31))
        assert found == pytest.approx({step: undisturbed[step] for step in found}, rel=1e-5)
        result = json.loads(next((gptx.outputs / strategy).glob("*/result.json")).read_text())
        assert (result["steps"], result["tokens"]) == (30, 30 * 8 * 16)
        assert result["origin"]["step"] == 20


@pytest.mark.full
def test_resume_from_with_the_same_number_of_processes_is_bitwise_equal(make: Maker) -> None:
    gptx = make("one process count")
    base = [*CONSTANT, "strategy=fsdp", "runtime.log_every=7"]
    undisturbed = losses(gptx, "undisturbed", *base)
    assert gptx(*base, "trainer.max_steps=20", "study=source").code == 0
    [source_folder] = journal.runs(gptx.outputs / "source")
    found = losses(gptx, "resumed", *base, f"resume_from='{source_folder}'")
    assert found == {step: undisturbed[step] for step in found}
    batches, after = (checksums(gptx, study) for study in ("undisturbed", "resumed"))
    assert after == {step: batches[step] for step in after}
    ends = [next((gptx.outputs / study).glob("*/checkpoints/step-00000030")) for study in ("undisturbed", "resumed")]
    assert equal_tensors(*ends)


def checksums(gptx: Gptx, study: str) -> dict[int, str]:
    [folder] = journal.runs(gptx.outputs / study)
    return {r["step"]: r["rows"] for r in records(folder, "metrics")}


def losses(gptx: Gptx, study: str, *words: str) -> dict[int, float]:
    done = gptx(*words, f"study={study}")
    assert done.code == 0, done.err
    [folder] = journal.runs(gptx.outputs / study)
    return {r["step"]: r["values"]["train/loss"] for r in records(folder, "metrics")}
