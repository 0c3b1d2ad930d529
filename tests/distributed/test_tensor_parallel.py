"""Configs that strategy=tp and strategy=fsdp_tp reject before any process is started, and their advice."""

import pytest
import torch
from composed import composed

from gptx.config.instantiate import part
from gptx.errors import ConfigError
from gptx.model.build import build
from gptx.pos.learned import Learned
from gptx.strategy.batch_plan import BatchPlan
from gptx.strategy.tp import find_indivisible

PAIRS = " (heads are split in pairs)"


def rejection(overrides: list[str], processes: int) -> str:
    """The message of the strategy; empty, if it accepts the model."""
    cfg = composed("model.n_layer=1", "model.d_model=48", "model.n_head=4", "device=cpu", *overrides)
    strategy = part(cfg.strategy)
    with torch.device("meta"):
        model = build(cfg, 11)
    try:
        strategy.check(model, processes, BatchPlan.of(cfg, strategy.batch_slices(processes)))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("overrides", "processes", "given", "advice"),
    [
        ("attention=mqa", 2, "attention.n_kv_head=1", ["attention.n_kv_head=2", "strategy=fsdp"]),
        ("attention=gqa", 4, "attention.n_kv_head=2", ["attention.n_kv_head=4", "strategy.nproc=2"]),
        ("model.n_head=3", 2, "model.n_head=3", ["model.n_head=2", "strategy=fsdp"]),
        ("attention=mla", 3, "model.n_head=4", ["model.n_head=3", "strategy.nproc=2"]),
        ("attention=differential", 4, f"model.n_head=4{PAIRS}", ["model.n_head=8", "strategy.nproc=2"]),
        (
            "attention=differential attention.n_kv_head=2",
            2,
            f"attention.n_kv_head=2{PAIRS}",
            ["attention.n_kv_head=4", "strategy=fsdp"],
        ),
        ("model.d_model=15 model.n_head=3 pos=none", 2, "model.n_head=3", ["strategy=fsdp"]),
        ("ffn.ratio=2.6", 2, "ffn=gelu of width 125", ["ffn.ratio=2.58333", "strategy=fsdp"]),
        (
            "ffn=swiglu ffn.ratio=2.6 ffn.multiple_of=1",
            2,
            "ffn=swiglu of width 125",
            ["ffn.multiple_of=2", "strategy=fsdp"],
        ),
        ("strategy=fsdp_tp attention=mqa", 4, "attention.n_kv_head=1", ["attention.n_kv_head=2", "strategy=fsdp"]),
        (
            "strategy=fsdp_tp strategy.tp=0 attention=gqa",
            4,
            "attention.n_kv_head=2",
            ["attention.n_kv_head=4", "strategy.tp=2"],
        ),
    ],
)
def test_advice_of_a_rejection_is_accepted(overrides: str, processes: int, given: str, advice: list[str]) -> None:
    words = overrides.split() if "strategy" in overrides else ["strategy=tp", *overrides.split()]
    message = rejection(words, processes)
    assert f"not possible with {given}: use {' or '.join(advice)}" in message, message
    for override in advice:
        fewer = int(override[-1]) if override.startswith("strategy.nproc=") else processes
        others = words if override != "strategy=fsdp" else [word for word in words if not word.startswith("strategy")]
        assert rejection([*others, override], fewer) == ""


@pytest.mark.parametrize(
    "overrides", ["ffn=moe ffn.ratio=2.6", "attention=mla", "attention=gqa model.n_head=6", "pos=learned"]
)
def test_divisible_models_are_accepted(overrides: str) -> None:
    assert rejection(["strategy=tp", *overrides.split()], 2) == ""


def test_encoding_with_weights_for_embedding_and_heads_is_rejected() -> None:
    class Both(Learned):
        biased = True

    with torch.device("meta"):
        model = build(composed("pos=learned", "device=cpu"), 11)
        model.pos = Both(model.shape, 4, 2)
    found = find_indivisible(model, 2)
    assert found is not None and "in the embedding and in the heads" in found.given


def test_groups_that_do_not_divide_the_processes_are_rejected() -> None:
    message = rejection(["strategy=fsdp_tp", "strategy.tp=3"], 4)
    assert "strategy.tp=3 does not divide 4 processes: use strategy.tp=2" in message
