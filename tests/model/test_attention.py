"""Attention variants: options, cache size, precision, compiler, rejected options, and tensor parallelism."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers_attention import GROUPS, HEADS, LAYERS, NEW, config_of, first_attention
from helpers_model import CONTEXT, VOCAB, advice, arm, random_model, rejected, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.attention.gqa import AttentionRMSNorm
from gptx.geometry.attention_view import Score
from gptx.model.build import build
from gptx.model.cost import cost
from gptx.model.kv_cache import KVCache, keep_nothing

# Options, cache size, precision, compiler


def random_variant(data: st.DataObject) -> DictConfig:
    """A random variant with random sizes and options."""
    name, dim = data.draw(st.sampled_from(NEW)), data.draw(st.sampled_from([2, 4, 6]))
    groups = data.draw(st.sampled_from([2, 4] if name == "differential" else [1, 2, 3]))
    n_head = groups * data.draw(st.integers(1, 2))
    cfg = config_of(name, {"n_head": n_head, "d_model": n_head * dim, "bias": data.draw(st.booleans())})
    found = {
        "n_kv_head": groups,
        "n_gate": data.draw(st.sampled_from([groups, n_head])),
        "q_rank": data.draw(st.integers(0, 5)),
        "softcap": data.draw(st.sampled_from([0, 2])),
    }
    cfg.attention.update({key: value for key, value in found.items() if key in cfg.attention})
    for key, value in cfg.attention.items():
        if isinstance(value, bool):
            cfg.attention[key] = data.draw(st.booleans())
    if cfg.attention.get("norm_per_head"):
        cfg.attention.qk_norm = True
    return cfg


@settings(max_examples=13)
@given(data=st.data())
def test_decoding_equals_forward_for_random_options(data: st.DataObject) -> None:
    model, tokens = random_model(random_variant(data)), rows(2, CONTEXT)
    cuts = data.draw(st.sets(st.integers(1, CONTEXT - 1), max_size=5))
    chunks = [b - a for a, b in pairwise([0, *sorted(cuts), CONTEXT])]
    cache = KVCache(CONTEXT)
    with torch.no_grad():
        steps = torch.cat([model(chunk, context=cache) for chunk in tokens.split(chunks, dim=1)], dim=1)
        torch.testing.assert_close(steps, model(tokens), rtol=0, atol=1e-10)


OPTIONS = {"softcap": 0.5, "qk_norm": True, "bias": True, "per_head": True, "norm_weight": False, "lambda_rise": 0.0}


@pytest.mark.parametrize(
    ("attention", "key"), [(name, key) for name in NEW for key in config_of(name).attention if key in OPTIONS]
)
def test_every_option_changes_the_logits(attention: str, key: str) -> None:
    """Both models have equal weights wherever both have the parameter."""
    one, two = random_model(config_of(attention)), random_model(config_of(attention, **{key: OPTIONS[key]}))
    shapes = {name: weight.shape for name, weight in two.state_dict().items()}
    shared = {name: weight for name, weight in one.state_dict().items() if shapes.get(name) == weight.shape}
    two.load_state_dict(shared, strict=False)
    with torch.no_grad():
        assert not torch.allclose(one(rows(2, CONTEXT)), two(rows(2, CONTEXT)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("attention", "keys", "numbers"),
    [
        ("sink", {}, 0),
        ("gated", {}, 0),
        ("differential", {}, 0),
        ("forgetting", {}, HEADS),
        ("forgetting", {"n_gate": GROUPS}, GROUPS),
    ],
)
def test_cache_size_of_gqa_variants(attention: str, keys: dict[str, Any], numbers: int) -> None:
    variant, plain = (
        cost(build(config_of(name, n_kv_head=GROUPS, **more), VOCAB), torch.float32).kv_bytes_per_token
        for name, more in ((attention, keys), ("gqa", {}))
    )
    assert variant - plain == 4 * LAYERS * numbers, "one number for each gate"


@pytest.mark.parametrize("attention", ["gqa", *NEW])
def test_bf16_autocast_is_close_to_fp32(attention: str) -> None:
    keys = {} if attention == "mla" else {"qk_norm": True}
    model = random_model(config_of(attention, {"d_model": 64, "bias": True}, **keys)).float()
    for parameter in model.parameters():
        parameter.data *= 0.5
    row = rows(4, CONTEXT)
    logits = model(row)
    with torch.autocast("cpu", torch.bfloat16):
        low, cache = model(row), KVCache(CONTEXT)
        with torch.no_grad():
            steps = torch.cat([model(token, context=cache) for token in row.split(1, dim=1)], dim=1)
        model(row[:, :-1], row[:, 1:]).backward()
    assert low.dtype == torch.bfloat16
    for found in (low, steps):
        assert (found.float() - logits).norm() < 0.03 * logits.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_head_norms_use_a_fused_kernel_under_autocast() -> None:
    """torch has a fused kernel for bf16 inputs with bf16 weights, and warns for others once (here: always)."""
    norm, x = AttentionRMSNorm(8, eps=1e-6), torch.randn(3, 8).bfloat16()
    torch.set_warn_always(True)
    try:
        y = norm(x)
        with pytest.raises(UserWarning, match="Mismatch dtype"):
            nn.RMSNorm(8, eps=1e-6)(x)
    finally:
        torch.set_warn_always(False)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and norm.weight.grad is not None and norm.weight.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), nn.RMSNorm(8, eps=1e-6)(x.float()), rtol=1e-2, atol=0)


def test_forget_gates_are_summed_in_float64_under_autocast() -> None:
    """In bf16 the sum of a thousand gates of -0.01 stops at -4, because adding another one is rounded away."""
    model = build(config_of("forgetting"), VOCAB)
    seen: list[Tensor] = []

    class Watching:
        def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            return q, k

        def attend(self, q: Tensor, k: Tensor, v: Tensor, score: Score) -> Tensor:
            assert score.decay is not None
            seen.append(score.decay)
            return q

    attention = model.blocks[0].attention
    nn.init.constant_(attention.forget.bias, 4.6)
    with torch.autocast("cpu", torch.bfloat16):
        attention(torch.zeros(1, 1000, 16), Watching(), keep_nothing)
    assert seen[0].dtype == torch.float64, "far away, differences of large sums count"
    expected = 1000 * torch.nn.functional.logsigmoid(torch.tensor(4.6).bfloat16().float())
    torch.testing.assert_close(seen[0][0, -1], expected.double().expand(HEADS), rtol=1e-4, atol=0)


@pytest.mark.parametrize("attention", NEW)
def test_attention_compiles_to_one_graph(attention: str) -> None:
    torch._dynamo.reset()
    model, row = random_model(config_of(attention, more=arm(kernel="reference"))), rows(2, CONTEXT)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(row), model(row), rtol=0, atol=1e-12)


# Rejections


@pytest.mark.parametrize(
    ("attention", "model", "keys", "words"),
    [
        ("differential", {"n_head": 4}, {"n_kv_head": 1}, ["n_kv_head=1", "n_head=4", "pairs"]),
        ("differential", {"n_head": 3, "d_model": 12}, {"n_kv_head": 3}, ["n_kv_head=3", "n_head=3"]),
        ("differential", {"n_head": 6, "d_model": 12}, {"n_kv_head": 3}, ["n_kv_head=3", "n_head=6"]),
        ("mla", {}, {"rope_dim": 3}, ["rope_dim=3", "even"]),
        ("mla", {}, {"rope_dim": -2}, ["rope_dim=-2", "even"]),
        ("mla", {}, {"kv_rank": -1}, ["kv_rank=-1", "0 or more"]),
        ("mla", {}, {"q_rank": -1}, ["q_rank=-1", "0 or more"]),
        ("mla", {}, {"softcap": -1.0}, ["softcap=-1", "0 (none)"]),
    ],
)
def test_advice_of_rejections_works(
    attention: str, model: dict[str, Any], keys: dict[str, Any], words: list[str]
) -> None:
    cfg = config_of(attention, model, **keys)
    message = rejected(build, cfg, VOCAB)
    assert all(word in message for word in words)
    recommended = advice(message)
    assert recommended
    for key, value in recommended.items():
        group, _, name = key.partition(".")
        cfg[group][name] = value
    build(cfg, VOCAB)


@pytest.mark.parametrize("lambda_init", [-0.1, 1.0])
def test_lambda_init_bounds(lambda_init: float) -> None:
    message = rejected(build, config_of("differential", lambda_init=lambda_init), VOCAB)
    assert f"lambda_init={lambda_init}" in message and "0.8" in message
    build(config_of("differential", lambda_init=0.8), VOCAB)


@pytest.mark.parametrize("rise", [-0.1, 0.5])
def test_lambda_rise_bounds(rise: float) -> None:
    message = rejected(build, config_of("differential", lambda_init=0.4, lambda_rise=rise), VOCAB)
    assert f"lambda_rise={rise} with attention.lambda_init=0.4" in message and "such as 0.3" in message
    build(config_of("differential", lambda_init=0.4, lambda_rise=0.3), VOCAB)


@pytest.mark.parametrize("attention", [a for a in NEW if a != "mla"])
def test_rejects_kv_heads_that_do_not_divide(attention: str) -> None:
    assert "expected one of 1, 2, 4" in rejected(build, config_of(attention, n_kv_head=3), VOCAB)


@pytest.mark.parametrize(
    ("attention", "keys", "demand"),
    [("sink", {}, "sink"), ("forgetting", {}, "decay"), *((a, {"softcap": 5.0}, "softcap") for a in (*NEW, "gqa"))],
)
def test_kernels_reject_missing_features_by_name(attention: str, keys: dict[str, Any], demand: str) -> None:
    message = rejected(build, config_of(attention, more=arm(kernel="sdpa"), **keys), VOCAB)
    assert "kernel=sdpa" in message and demand in message
    for kernel in ("auto", "reference"):
        assert f"kernel={kernel}" in message
        build(config_of(attention, more=arm(kernel=kernel), **keys), VOCAB)


# Tensor parallelism


def part_of(attention: Attention, rank: int, ranks: int) -> Attention:
    """The shard of an attention that one process holds, according to its table `tp`."""
    piece = copy.deepcopy(attention)
    for child, cut in piece.tp.items():
        if cut in ("col", "row"):
            found = piece.get_submodule(child)
            found.weight.data = found.weight.data.chunk(ranks, 0 if cut == "col" else 1)[rank]
            if getattr(found, "bias", None) is not None:
                found.bias.data = found.bias.data.chunk(ranks, 0)[rank] if cut == "col" else found.bias.data / ranks
    return piece


@pytest.mark.parametrize("groups", [8, 4])
@pytest.mark.parametrize(
    ("attention", "more"),
    [*((name, {}) for name in ("gqa", *NEW)), ("forgetting", {"norm_per_head": True}), ("forgetting", {"n_gate": 4})],
)
def test_heads_can_be_split_over_processes(attention: str, more: dict[str, Any], groups: int) -> None:
    """With columns of the head projections and rows of the output layer, the shards' outputs sum to the full output."""
    keys = {} if attention == "mla" else {"n_kv_head": groups, "qk_norm": True, **more}
    if "n_gate" in more and groups != more["n_gate"]:
        pytest.skip("gates are those of query or of key heads")
    cfg = config_of(attention, {"n_head": 8, "d_model": 32, "bias": True}, **keys)
    model, x = random_model(cfg), torch.randn(2, CONTEXT, 32, dtype=torch.float64)
    complete = model.blocks[0].attention
    with torch.no_grad():
        parts = [first_attention(model, x, part_of(complete, rank, 2)) for rank in range(2)]
        torch.testing.assert_close(sum(parts), first_attention(model, x), rtol=0, atol=1e-12)
        assert not torch.allclose(parts[0], parts[1])
