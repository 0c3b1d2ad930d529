"""Runs of several processes and of micro-batches have the losses of one process."""

import os
from pathlib import Path

import pytest
from command import DEADLINE, Done, Gptx, history, unused_port
from conftest import Maker, Trained

from gptx import run


def equal_losses(ours: Path, theirs: Path) -> None:
    a, b = history(ours), history(theirs)
    assert a.keys() == b.keys() and len(a) > 90
    for key in a:
        assert a[key] == pytest.approx(b[key], rel=1e-5 if key[0] != "train/grad_norm" else 1e-4), key


def test_ddp_losses_equal_those_of_one_process(trained: Trained, ddp: Gptx) -> None:
    equal_losses(ddp.folder, trained.folder)
    assert "·ddp·" in ddp.folder.name


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_micro_batches_do_not_change_losses(trained: Trained, gptx: Gptx, strategy: str) -> None:
    done = gptx(f"strategy={strategy}", "trainer.micro_batch=2")
    assert done.code == 0, done.err
    equal_losses(gptx.folder, trained.folder)


@pytest.mark.parametrize("override", ["trainer.micro_batch=2", "strategy=ddp"])
def test_mixture_of_experts_losses_are_equal_with_ddp_and_micro_batches(make: Maker, override: str) -> None:
    """The balance loss and the capacity of experts are computed per row, so the split of the batch changes neither."""
    words = ("ffn=moe", "ffn.capacity=1.0", "ffn.n_expert=4")
    undivided, divided = make("experts"), make("experts, divided")
    for gptx, more in ((undivided, []), (divided, [override])):
        done = gptx(*words, *more)
        assert done.code == 0, done.err
    found = history(undivided.folder)
    balance = [value for (name, _), value in found.items() if name == "train/balance_loss"]
    dropped = [value for (name, _), value in found.items() if name == "train/dropped_share"]
    assert len(balance) == len(dropped) == 30
    assert all(1.9 < value < 8 for value in balance), (
        "top_k where all experts are liked alike, top_k x n_expert at most"
    )
    assert all(0 < value < 0.7 for value in dropped)
    equal_losses(divided.folder, undivided.folder)


def test_torchrun_equals_ddp(ddp: Gptx, gptx: Gptx) -> None:
    command = ["--standalone", "--nproc-per-node=2", "-m", "gptx.run", *gptx.tiny, "strategy=ddp"]
    done = gptx.run("torch.distributed.run", *command)
    assert done.code == 0, done.err
    assert gptx.folder.name == ddp.folder.name
    assert history(gptx.folder) == history(ddp.folder)
    assert done.out.count("val loss") == 1  # only rank 0 prints


@pytest.mark.full
def test_torchrun_on_two_nodes_equals_ddp(ddp: Gptx, gptx: Gptx) -> None:
    words = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={unused_port()}"]
    command = ["-m", "gptx.run", *gptx.tiny, "strategy=ddp"]
    nodes = [gptx.popen("torch.distributed.run", *words, f"--node-rank={rank}", *command) for rank in (0, 1)]
    ends = [Done(0, *node.communicate(timeout=DEADLINE)) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ends
    assert history(gptx.folder) == history(ddp.folder)
    assert [end.out.count("val loss") for end in ends] == [1, 0]


@pytest.mark.full
def test_torchrun_rejects_a_strategy_for_one_process(gptx: Gptx) -> None:
    command = ["--standalone", "--nproc-per-node=2", "-m", "gptx.run", *gptx.tiny]
    done = gptx.run("torch.distributed.run", *command)
    assert done.code != 0
    assert "one process" in done.err and "strategy=ddp" in done.err
    assert not gptx.outputs.exists()


@pytest.mark.parametrize("code", [0, 1])
def test_rank_of_torchrun_ends_without_finalizing_the_interpreter(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """While the interpreter is finalized, a thread of gloo that releases a tensor would abort the process."""
    ended: list[int] = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(run, "_run", lambda: code)
    monkeypatch.setattr(os, "_exit", ended.append)
    assert run.main([]) == code
    assert ended == [code]
