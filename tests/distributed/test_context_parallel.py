"""strategy=cp: the split of rows, the keys that the kernel gets, and rejected configs."""

import pytest
import torch
from composed import composed
from helpers_model import VOCAB, advice, arm, model_of, rejected, yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gptx.config.instantiate import part
from gptx.geometry.attention_view import Score
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.model.build import build
from gptx.pos.base import PositionalEncoding
from gptx.strategy.batch_plan import BatchPlan
from gptx.strategy.cp_sharding import RowShard, RowShardKernel, merge_shards, split_rows
from gptx.window.base import Window

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 5))  # ranks, tokens in a chunk


@given(SIZES)
def test_shards_partition_a_row_and_merge_in_the_order_of_time(sizes: tuple[int, int]) -> None:
    count, size = sizes
    row = torch.arange(3 * 2 * count * size * 2).view(3, 2 * count * size, 2)
    shards = torch.stack([RowShard(i, count).take(row) for i in range(count)])
    assert shards.shape == (count, 3, 2 * size, 2)
    assert torch.equal(merge_shards(shards), row)
    assert torch.equal(split_rows(row, count), shards)


@given(SIZES)
def test_every_rank_has_the_same_number_of_causal_pairs(sizes: tuple[int, int]) -> None:
    count, size = sizes
    visible_keys = torch.arange(1, 2 * count * size + 1)[None]  # of each query
    assert len({int(RowShard(i, count).take(visible_keys).sum()) for i in range(count)}) == 1


class CheckingKernel(Kernel):
    """Checks that positions, decay and tensors belong to the same tokens; returns the number of keys."""

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        return where

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, Where) and score.decay is not None
        assert torch.equal(mask.k_pos[0], k[0, :, 0, 0]) and torch.equal(mask.k_pos[0], score.decay[0, :, 0])
        assert torch.equal(mask.q_pos[0], q[0, :, 0, 0]) and torch.equal(mask.q_pos, mask.k_pos[:, -q.shape[1] :])
        assert mask.aligned == (int(mask.q_pos[0, 0]) == 0)
        return mask.k_pos.new_full(q.shape, k.shape[1])


@given(SIZES, st.sampled_from(["full", "sliding", "chunked", "sliding_sink"]))
def test_kernel_gets_the_keys_that_end_with_a_chunk_and_are_within_reach(sizes: tuple[int, int], option: str) -> None:
    (count, size), model = sizes, model_of(arm(window=option))
    window = model.windows[0]
    row = Where.rows(2 * count * size)
    token = row.k_pos[..., None, None]
    for i in range(count):
        shard = RowShard(i, count)
        kernel = RowShardKernel(model.shape, CheckingKernel(model.shape, frozenset()), shard)
        where = Where(shard.take(row.q_pos), row.k_pos)
        mask = kernel.mask(where, window, model.pos)
        keys = kernel(shard.take(token), token, token, mask, Score(1.0, decay=token[..., 0]))[0, :, 0, 0]
        past = where.q_pos[0].view(2, size)[:, :1].expand(2, size).flatten()
        expected = past if window.reach is None else past.clamp(max=window.reach - 1)
        assert torch.equal(keys, expected + size)


def check(*overrides: str, processes: int = 2, kernel: str = "") -> None:
    """Let the strategy check a config; ``kernel`` replaces the kernel of the model."""
    cfg = composed("strategy=cp", "device=cpu", "precision=fp32", *overrides)
    strategy = part(cfg.strategy)
    with torch.device("meta"):
        model = build(cfg, VOCAB)
    if kernel:
        model.use_kernel(part(yaml("kernel", kernel), model.shape, model.kernel.demands))
    strategy.check(model, processes, BatchPlan.of(cfg, strategy.batch_slices(processes)))


def test_rows_of_two_pairs_of_processes_are_accepted() -> None:
    check("model.context=36", "strategy.cp=2", processes=4)


@pytest.mark.parametrize(
    ("overrides", "processes", "texts"),
    [
        (("model.context=34",), 2, ("strategy.cp=2", "4 chunks", "model.context=34", "model.context=32")),
        (("model.context=3",), 4, ("strategy.cp=4", "8 chunks", "model.context=3", "model.context=8")),
        (("ffn=moe", "ffn.capacity=0", "ffn.balance=0.01"), 2, ("ffn=moe", "ffn.capacity=0", "ffn.balance=0")),
        (("ffn=moe", "ffn.capacity=1", "ffn.balance=0"), 2, ("ffn=moe", "ffn.capacity=0", "ffn.balance=0")),
        (("strategy.cp=3",), 2, ("strategy.cp=3", "2 processes", "strategy.cp=2")),
        (("strategy.cp=-1",), 2, ("strategy.cp=-1", "0 for all")),
    ],
)
def test_advice_of_a_rejection_is_accepted(overrides: tuple[str, ...], processes: int, texts: tuple[str, ...]) -> None:
    message = rejected(lambda: check(*overrides, processes=processes))
    assert all(text in message for text in texts), message
    if ": use " in message:
        advised = [f"{key}={value}" for key, value in advice(message).items() if key != "strategy.nproc"]
        check(*overrides, *advised, processes=processes)


def test_kernel_without_partial_rows_is_rejected() -> None:
    check(kernel="flash")
    assert "kernel=flex computes full rows" in rejected(lambda: check(kernel="flex"))
