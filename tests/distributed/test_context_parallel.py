"""Processes that share rows compute what one process does (what they do: own/shared_rows.py)."""

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from command import OWN, ROOT, Done, Gptx, records
from conftest import Maker
from helpers_model import VOCAB, advice, arm, model_of, refused, yaml
from hypothesis import given
from hypothesis import strategies as st
from own.shared_rows import CASES, SHARING
from torch import Tensor

import gptx
from gptx.config.instantiate import part
from gptx.geometry.view import Score
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.model.build import build
from gptx.pos.base import PositionalEncoding
from gptx.strategy.batch_plan import BatchPlan
from gptx.strategy.sequence_sharding import RowShard, RowShardKernel, merge_shards, split_rows
from gptx.window.base import Window

# ------------------------------------------------------------------------- how rows are cut

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 5))  # processes, tokens in a piece


@given(SIZES)
def test_pieces_partition_a_row_and_come_back_in_the_order_of_time(sizes: tuple[int, int]) -> None:
    count, size = sizes
    row = torch.arange(3 * 2 * count * size * 2).view(3, 2 * count * size, 2)
    parts = torch.stack([RowShard(i, count).take(row) for i in range(count)])
    assert parts.shape == (count, 3, 2 * size, 2)
    assert torch.equal(merge_shards(parts), row)
    assert torch.equal(split_rows(row, count), parts)


@given(SIZES)
def test_causal_work_is_the_same_everywhere(sizes: tuple[int, int]) -> None:
    count, size = sizes
    seen = torch.arange(1, 2 * count * size + 1)[None]  # keys that each query sees
    assert len({int(RowShard(i, count).take(seen).sum()) for i in range(count)}) == 1


class Asked(Kernel):
    """Notes the queries and keys that it is given."""

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        return where

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, Where) and score.decay is not None
        assert torch.equal(mask.k_pos[0], k[0, :, 0, 0]) and torch.equal(mask.k_pos[0], score.decay[0, :, 0])
        assert torch.equal(mask.q_pos[0], q[0, :, 0, 0]) and torch.equal(mask.q_pos, mask.k_pos[:, -q.shape[1] :])
        assert mask.aligned == (int(mask.q_pos[0, 0]) == 0)
        return mask.k_pos.new_full(q.shape, k.shape[1])


@given(SIZES, st.sampled_from(["full", "sliding", "chunked", "sliding_sink"]))
def test_a_kernel_is_asked_for_the_keys_that_end_with_a_piece_and_are_within_reach(
    sizes: tuple[int, int], option: str
) -> None:
    (count, size), model = sizes, model_of(arm(window=option))
    window = model.windows[0]
    row = Where.rows(2 * count * size)
    token = row.k_pos[..., None, None]
    for i in range(count):
        cut = RowShard(i, count)
        kernel = RowShardKernel(model.shape, Asked(model.shape, frozenset()), cut)
        where = Where(cut.take(row.q_pos), row.k_pos)
        mask = kernel.mask(where, window, model.pos)
        keys = kernel(cut.take(token), token, token, mask, Score(1.0, decay=token[..., 0]))[0, :, 0, 0]
        past = where.q_pos[0].view(2, size)[:, :1].expand(2, size).flatten()
        expected = past if window.reach is None else past.clamp(max=window.reach - 1)
        assert torch.equal(keys, expected + size)


# ------------------------------------------------------------------------- what processes compute

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(make: Maker) -> Callable[[int], Found]:
    """What so many processes have found, for each number of them that share a row; one launch."""
    launched: dict[int, tuple[Gptx, Done]] = {}
    paths = os.pathsep.join(map(str, (ROOT, OWN, OWN.parent)))

    def one(processes: int) -> Found:
        if processes not in launched:
            gptx = make(f"rows-shared-by-{processes}")
            done = gptx.run("shared_rows", str(processes), str(gptx.cwd), timeout=900, PYTHONPATH=paths)
            launched[processes] = gptx, done
        gptx, done = launched[processes]
        assert (done.code, done.out) == (0, "0\n"), done.err
        told: Found = json.loads((gptx.cwd / "found.json").read_text())
        return told

    return one


SPREAD = [(processes, sharing) for processes in SHARING for sharing in SHARING[processes]]
TOLD = [(processes, sharing, str(case)) for processes, sharing in SPREAD for case in CASES[processes]]


@pytest.mark.parametrize(("processes", "sharing", "case"), TOLD)
def test_loss_and_gradients_are_those_of_one_process(
    found: Callable[[int], Found], processes: int, sharing: int, case: str
) -> None:
    told = found(processes)[str(sharing)]["cases"][case]
    if isinstance(told, str):
        pytest.skip(told)
    assert told["largest"] > 1e-3, "gradients this small would make anything close"
    assert max(told["loss"], told["gradients"] / told["largest"]) < 1e-12


@pytest.mark.parametrize(("processes", "sharing"), SPREAD)
def test_validation_is_that_of_one_process(found: Callable[[int], Found], processes: int, sharing: int) -> None:
    told = found(processes)[str(sharing)]["validation"]
    assert told["all"] == pytest.approx(told["one"], rel=1e-6)


ARMS = (("attention=gqa", "pos=rope", "window=sliding", "window.size=5"), ("attention=mha", "pos=learned"))


@pytest.mark.slow
@pytest.mark.parametrize("words", ARMS, ids="-".join)
def test_a_run_is_that_of_one_process(make: Maker, words: Sequence[str]) -> None:
    """Clipping, the optimiser, micro-batches, validation and the journal: every step's loss."""
    told: list[list[dict[str, float]]] = []
    for option in ("single", "cp"):
        gptx = make(option)
        done = gptx(*words, f"strategy={option}", "trainer.max_steps=20", "trainer.micro_batch=4", "optim.lr=0.01")
        assert done.code == 0, done.err
        assert "Warning" not in done.err
        told.append([record["values"] for record in records(gptx.folder, "metrics")])
    one, shared = told
    assert len(one) == len(shared) == 20 and one[-1]["train/loss"] < one[0]["train/loss"] - 0.3
    for name in ("train/loss", "train/grad_norm", "val/loss", "val/accuracy"):
        pairs = [(a[name], b[name]) for a, b in zip(one, shared, strict=True) if name in a]
        assert pairs and all(math.isclose(a, b, rel_tol=1e-5) for a, b in pairs), (name, pairs)


# ------------------------------------------------------------------------- what it refuses


def check(*words: str, processes: int = 2, kernel: str = "") -> None:
    cfg = gptx.compose(["strategy=cp", "device=cpu", "precision=fp32", *words])
    strategy = part(cfg.strategy)
    with torch.device("meta"):
        model = build(cfg, VOCAB)
    if kernel:
        model.use_kernel(part(yaml("kernel", kernel), model.shape, model.kernel.demands))
    strategy.check(model, processes, BatchPlan.of(cfg, strategy.batch_slices(processes)))


def recommended(message: str) -> list[str]:
    return [f"{key}={value}" for key, value in advice(message).items()]


@pytest.mark.parametrize(
    ("words", "processes", "parts"),
    [
        (("model.context=34",), 2, ("strategy.cp=2", "4 chunks", "model.context=34", "model.context=32")),
        (("model.context=3",), 4, ("strategy.cp=4", "8 chunks", "model.context=3", "model.context=8")),
        (("model.context=36", "strategy.cp=2"), 4, ()),  # two pairs
        (("ffn=moe", "ffn.capacity=0", "ffn.balance=0.01"), 2, ("ffn=moe", "ffn.capacity=0", "ffn.balance=0")),
        (("ffn=moe", "ffn.capacity=1", "ffn.balance=0"), 2, ("ffn=moe", "ffn.capacity=0", "ffn.balance=0")),
        (("ffn=moe", "ffn.capacity=0", "ffn.balance=0"), 2, ()),
        (("strategy.cp=3",), 2, ("strategy.cp=3", "2 processes", "strategy.cp=2")),
        (("strategy.cp=-1",), 2, ("strategy.cp=-1", "0 for all")),
    ],
)
def test_refusals_name_what_would_do(words: tuple[str, ...], processes: int, parts: tuple[str, ...]) -> None:
    def checked(*more: str) -> None:
        check(*words, *more, processes=processes)

    if not parts:
        checked()
        return
    message = refused(checked)
    assert all(text in message for text in parts), message
    if ": use " in message:
        checked(*(word for word in recommended(message) if "nproc" not in word))


def test_a_kernel_that_computes_whole_rows_is_refused() -> None:
    check(kernel="flash")
    assert "kernel=flex computes full rows" in refused(lambda: check(kernel="flex"))
