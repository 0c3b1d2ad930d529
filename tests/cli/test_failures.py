"""Runs that fail: exceptions, losses that are not finite, full and read-only disks."""

import json
import math
import os
import subprocess
import sys

import pytest
from command import OWN_CONF, Gptx, history, records, weights
from conftest import Trained

from gptx.runs import journal
from gptx.runs.checkpoint_files import steps
from gptx.training.best_weights import load_best


def test_worker_exception_is_reported_in_one_line_and_the_fixed_command_resumes(gptx: Gptx) -> None:
    words = [*OWN_CONF, "kernel=fragile", "strategy=ddp"]
    broken = gptx(*words, RAISE_AT="25", RAISE_RANK="1")
    assert broken.code == 1
    assert "Traceback" not in broken.err
    assert broken.err.splitlines()[-1].startswith(
        "gptx: worker 1 (of 0..1) failed: RuntimeError: the kernel broke; see "
    )
    log = (gptx.folder / "logs" / "rank-0001.log").read_text()
    assert log.count("Traceback (most recent call last)") == 1 and "mine.py" in log
    assert gptx.orphans() == []
    result = json.loads((gptx.folder / "result.json").read_text())
    assert result["status"] == "failed" and "the kernel broke" in result["error"]
    assert journal.status(gptx.folder) == "failed"
    mended = gptx(*words)
    assert mended.code == 0, mended.err
    assert [record["step"] for record in records(gptx.folder, "resume")] == [20]
    result = json.loads((gptx.folder / "result.json").read_text())
    assert (result["status"], result["error"], result["steps"]) == ("finished", None, 30)


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_non_finite_steps_are_skipped_up_to_max_skips(gptx: Gptx, strategy: str) -> None:
    words = [*OWN_CONF, "kernel=fragile", f"strategy={strategy}"]
    stopped = gptx(*words, "trainer.max_skips=1", NAN_AT="7,21")  # the checkpoint of step 20 is being written
    assert stopped.code == 1
    assert "Traceback" not in stopped.err
    for part in ("not finite in 2 of 21 steps", "trainer.max_skips=1", "step-00000020", "optim.lr"):
        assert part in stopped.err.splitlines()[-1]
    ended = json.loads((gptx.folder / "result.json").read_text())
    assert (ended["status"], ended["end_reason"]) == ("failed", "diverged")
    assert [path.name for path in steps(gptx.folder / "checkpoints")] == ["step-00000010", "step-00000020"]
    assert load_best(gptx.folder / "checkpoints")[1]["step"] == "20"

    skipped = gptx(*words, "trainer.max_skips=2", NAN_AT="7,21")
    assert skipped.code == 0, skipped.err
    folder = next(folder for folder in gptx.folders() if journal.status(folder) == "finished")
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())
    bad = {(key, step) for (key, step), value in history(folder).items() if not math.isfinite(value)}
    assert bad <= {("train/grad_norm", 7), ("train/grad_norm", 21)}


def test_patience_stops_a_run_without_a_new_best(gptx: Gptx) -> None:
    done = gptx("optim.lr=1e-30", "trainer.max_steps=500", "trainer.patience=2")
    assert done.code == 0, done.err
    result = json.loads((gptx.folder / "result.json").read_text())
    assert (result["steps"], result["best_step"]) == (30, 10)
    again = gptx("optim.lr=1e-30", "trainer.max_steps=500", "trainer.patience=2")
    assert "finished already" in again.out


def test_unwritable_outputs_are_reported_in_one_line(gptx: Gptx) -> None:
    gptx.outputs.write_text("a file")
    done = gptx()
    assert done.code in (1, 2)
    [line] = done.err.splitlines()
    assert line.startswith("gptx: ") and "outputs" in line


def test_full_disk_is_reported_in_one_line_and_the_run_resumes_when_there_is_space(
    gptx: Gptx, trained: Trained
) -> None:
    """A limit on the size of every file simulates the full disk."""
    size = 60_000
    code = "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "
    code += "os.execv(sys.argv[2], sys.argv[2:])"
    command = [sys.executable, "-c", code, str(size), sys.executable, "-m", "gptx.run", *gptx.tiny]
    done = subprocess.run(command, cwd=gptx.cwd, env=gptx.env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gptx: could not ")
    assert gptx().code == 0
    assert history(gptx.folder) == history(trained.folder)


@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_small_and_read_only_disk(gptx: Gptx, trained: Trained) -> None:
    gptx.outputs.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", gptx.outputs], check=False)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        full = gptx()
        assert full.code == 1, full
        assert "No space left" in full.err.splitlines()[-1] and "Traceback" not in full.err
        subprocess.run(["mount", "-o", "remount,ro", gptx.outputs], check=True)
        locked = gptx()
        assert locked.code in (1, 2)
        [line] = locked.err.splitlines()
        assert line.startswith("gptx: ") and "Read-only" in line
        subprocess.run(["mount", "-o", "remount,rw,size=16m", gptx.outputs], check=True)
        roomy = gptx()
        assert roomy.code == 0, roomy.err
        assert history(gptx.folder) == history(trained.folder)
    finally:
        subprocess.run(["umount", "-l", gptx.outputs], check=True)
