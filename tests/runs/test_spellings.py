"""Two commands that give one computation different spellings, and so different folder names, and start at once."""

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command import DEADLINE, ROOT, Gptx, environment, pausing, records, until, words
from tiers import some

import gptx as api
from gptx.runs import journal
from gptx.sweep.plan.cells import compose_cells
from gptx.training.run_location import CREATE_LOCK, locate

MHA, GQA = ("attention=mha",), ("attention=gqa", "attention.n_kv_head=4")  # one computation with 4 heads

# Every process has found no folder for any of argv[3] studies when the first one creates a folder.
CREATE = """
import sys
from multiprocessing import get_context
from omegaconf import OmegaConf
import gptx
from gptx.training.run_location import locate

fork = get_context("fork")
barrier = fork.Barrier(8, timeout=120)

def create(locations):
    for location in locations:
        barrier.wait()
        folder = location.create_folder().folder.path
        print(f"{folder.parent.name} {folder.name}\\n", end="", flush=True)

common = ["data=text", f"data.path={sys.argv[1]}", f"paths.outputs={sys.argv[2]}", "model.n_head=1"]
processes = []
for attention in ("mha", "mqa", "gqa", "gated"):
    spelling = ["attention=gqa", "attention.n_kv_head=1"] if attention == "gqa" else [f"attention={attention}"]
    cfg = gptx.compose([*common, *spelling])
    studies = [OmegaConf.merge(cfg, {"study": f"study{i}"}) for i in range(int(sys.argv[3]))]
    locations = [locate(one) for one in studies]
    processes += [fork.Process(target=create, args=(locations,)) for _ in range(2)]
for process in processes:
    process.start()
for process in processes:
    process.join()
"""


@pytest.mark.parametrize("studies", some([15, 100], 15))
def test_processes_that_create_the_folder_of_one_run_at_once_create_one_folder(
    tmp_path: Path, corpus: Path, studies: int
) -> None:
    """Of four configs in two processes each, three are one computation."""
    command = [sys.executable, "-c", CREATE, str(corpus), str(tmp_path), str(studies)]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, "")
    found = Counter(tuple(line.split()) for line in done.stdout.splitlines())
    for study in map("study{}".format, range(studies)):
        gated, other = sorted(path.name for path in (tmp_path / study).iterdir() if path.name != CREATE_LOCK)
        assert (found.pop((study, gated)), found.pop((study, other))) == (2, 6)
    assert not found


def test_sweep_uses_the_folder_of_another_spelling(tmp_path: Path, corpus: Path) -> None:
    """Another command creates the folder after the cell of the sweep has been composed."""
    common = ["data=text", f"data.path={corpus}", f"paths.outputs={tmp_path}"]
    [cell], [other] = (compose_cells([[*common, *spelling]]) for spelling in (GQA, MHA))
    assert cell.folder is not None and other.folder is not None and cell.folder.path != other.folder.path
    other.create_folder()
    cell.create_folder()
    assert cell.folder.path == other.folder.path
    assert {path.name for path in other.folder.path.parent.iterdir()} == {CREATE_LOCK, other.folder.path.name}


def test_folder_without_journal_is_used_by_every_spelling(tmp_path: Path, corpus: Path) -> None:
    """As after a kill between the creation of the folder and the start record."""
    mha, gqa = (
        api.compose(["data=text", f"data.path={corpus}", f"paths.outputs={tmp_path}", *one]) for one in (MHA, GQA)
    )
    folder = locate(gqa).folder.path
    (folder / "logs").mkdir(parents=True)  # as a sweep creates it before it starts a run
    folder.parent.chmod(0o770)
    created = locate(mha).create_folder().folder.path
    assert created != folder and (folder.parent / CREATE_LOCK).stat().st_mode & 0o777 == 0o660
    assert locate(gqa).folder.path == locate(gqa).create_folder().folder.path == created
    (created / journal.LOCK).unlink()
    assert locate(gqa).folder.path == folder


@pytest.mark.parametrize(
    "state, first, second",
    [("training", MHA, GQA), ("training", GQA, MHA), ("interrupted", MHA, GQA), ("finished", GQA, MHA)],
    ids=["training", "training, other order", "interrupted", "finished"],
)
def test_other_spelling_that_was_checked_before_the_run_started_uses_its_folder(
    gptx: Gptx, state: str, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    """The second command has found no folder and checks its config; meanwhile the first one starts to train."""
    common, place = words("single"), gptx.cwd / "second"
    place.mkdir()
    late = gptx.start(*common, *second, PAUSE_AT="0", PAUSE_IN=str(place))
    assert until(lambda: (place / "paused-0").exists(), late), late.communicate()
    early = gptx.start(*common, *first, **pausing(gptx, 57))
    assert until(lambda: (gptx.cwd / "paused-0").exists(), early), early.communicate()
    if state == "interrupted":
        early.send_signal(signal.SIGINT)
        (gptx.cwd / "go-after-signal").touch()
        early.communicate(timeout=DEADLINE)
    if state == "finished":
        (gptx.cwd / "go").touch()
        early.communicate(timeout=DEADLINE)
    (place / "go").touch()
    out, err = late.communicate(timeout=DEADLINE)
    if state == "training":
        assert late.returncode == 2 and f"is already being trained, by process {early.pid}" in err
        (gptx.cwd / "go").touch()
        early.communicate(timeout=DEADLINE)
    else:
        assert late.returncode == 0, err
        assert ("finished already" in out) == (state == "finished")
    assert journal.status(gptx.folder) == "finished"
    assert len(records(gptx.folder, "start")) == 1
    assert len(records(gptx.folder, "resume")) == (state == "interrupted")
    assert len(list(gptx.folder.parent.iterdir())) == 2, "the folder and the lock"
