"""How the global batch is split over ranks and micro-batches."""

from typing import Any

import pytest
from composed import composed
from helpers_model import advice, rejected
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from gptx.errors import ConfigError
from gptx.strategy.batch_plan import BatchPlan


def default(**trainer: Any) -> DictConfig:
    """A copy of the default config, with these keys of ``trainer``."""
    cfg = composed()
    cfg.trainer.update(trainer)
    return cfg


BATCHES = st.integers(1, 600)


@settings(max_examples=100)
@given(batch=BATCHES, processes=st.integers(1, 80), micro=st.integers(0, 80))
def test_rank_batches_add_up_to_the_global_batch(batch: int, processes: int, micro: int) -> None:
    cfg = default(batch_size=batch, micro_batch=micro)
    try:
        plan = BatchPlan.of(cfg, processes)
    except ConfigError:
        assert batch % processes or (batch // processes) % micro
        return
    assert plan.rank_batch * processes == plan.batch_size == batch
    assert plan.rank_batch % plan.micro_batch == 0
    assert plan.micro_batch == (micro or plan.rank_batch)


@settings(max_examples=100)
@given(batch=BATCHES, processes=st.integers(2, 80))
def test_error_for_uneven_batch_proposes_valid_settings(batch: int, processes: int) -> None:
    assume(batch % processes)
    message = rejected(BatchPlan.of, default(batch_size=batch), processes)
    assert f"trainer.batch_size={batch} " in message and f"{processes} processes" in message
    use = advice(message)
    assert 1 <= use["strategy.nproc"] < processes
    assert BatchPlan.of(default(batch_size=batch), use["strategy.nproc"]).batch_size == batch
    assert BatchPlan.of(default(batch_size=use["trainer.batch_size"]), processes).rank_batch >= 1
    assert abs(use["trainer.batch_size"] - batch) <= max(processes / 2, processes - batch), "the nearest that would do"


def test_error_counts_groups_of_processes_that_share_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    message = rejected(BatchPlan.of, default(batch_size=6), 4, 2)
    assert "4 groups of 2 processes" in message
    assert advice(message) == {"strategy.nproc": 6, "trainer.batch_size": 8}
    monkeypatch.setenv("RANK", "0")  # a worker of torchrun
    assert "use --nproc-per-node=6, or" in rejected(BatchPlan.of, default(batch_size=6), 4, 2)


@settings(max_examples=100)
@given(share=st.integers(1, 300), processes=st.integers(1, 8), micro=st.integers(1, 320))
def test_error_for_uneven_micro_batch_proposes_valid_settings(share: int, processes: int, micro: int) -> None:
    assume(share % micro)
    message = rejected(BatchPlan.of, default(batch_size=share * processes, micro_batch=micro), processes)
    assert f"trainer.micro_batch={micro} " in message and f"the {share} sequences" in message
    use = int(message.rpartition("use trainer.micro_batch=")[2])
    assert 1 <= use <= micro, "what fits in memory must go on fitting"
    assert BatchPlan.of(default(batch_size=share * processes, micro_batch=use), processes).micro_batch == use
