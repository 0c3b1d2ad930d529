"""The full model: GPT-2's sizes, the forward, initialisation, cost."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers_model import (
    CONTEXT,
    SIZE,
    VOCAB,
    arm,
    kernels,
    options,
    parameter_count,
    random_model,
    randomise,
    rows,
    tiny,
    yaml,
)
from helpers_parity import GPT2_ARM
from tiers import every_option
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import gptx
from gptx.config.instantiate import part
from gptx.config.overrides import conf_dir
from gptx.geometry.visibility import Where
from gptx.model.build import build
from gptx.model.cost import cost, pair_macs
from gptx.model.gpt import GPT
from gptx.model.initialise import initialise
from gptx.model.kv_cache import KVCache
from gptx.optim.update_step import decay_groups
from gptx.placement.base import Block
from gptx.window.base import Window


def tiny_model(arm: Any = (), **model: Any) -> GPT:
    return build(tiny(arm, **model), VOCAB)


# GPT-2's sizes


@pytest.mark.parametrize(
    ("preset", "n_params"),
    [
        ("gpt2", 124_439_808),
        ("gpt2_medium", 354_823_168),
        ("gpt2_large", 774_030_080),
        ("gpt2_xl", 1_557_611_200),
    ],
)
def test_gpt2_presets_have_the_published_parameter_counts(preset: str, n_params: int) -> None:
    cfg = gptx.compose([f"model={preset}", "pos=learned", "attention=mha", "device=cpu"])
    with torch.device("meta"):
        model = build(cfg, 50257)
    assert parameter_count(model) == n_params
    comment = (conf_dir() / "model" / f"{preset}.yaml").read_text().splitlines()[0]
    assert f"{n_params:,}" in comment


# Heads


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("attention", "groups"), [("mha", 4), ("gqa", 2), ("mqa", 1)])
def test_fewer_kv_heads_are_fewer_parameters_and_a_smaller_cache(attention: str, groups: int, bias: bool) -> None:
    model = tiny_model(arm(attention=attention, pos="none", ffn="gelu", norm="layernorm"), bias=bias)
    d, f, kv = 16, 64, groups * 4
    vectors = (d + 2 * kv + d) + (f + d) + 2 * d if bias else 0
    layer = (d * d + 2 * d * kv + d * d) + 2 * d * f + 2 * d + vectors
    assert parameter_count(model) == VOCAB * d + 2 * layer + d + (d if bias else 0)
    assert cost(model, torch.float32).n_params == parameter_count(model)
    assert cost(model, torch.float32).kv_bytes_per_token == 2 * 2 * kv * 4, "layers x (k, v) x numbers x bytes"
    assert cost(model, torch.bfloat16).kv_bytes_per_token == 2 * 2 * kv * 2


def test_gqa_is_mha_with_repeated_heads() -> None:
    """Which query heads share a key/value head: neighbours, as in the paper and in Hugging Face's models."""
    gqa = random_model(tiny(arm(attention="gqa", pos="rope"), bias=True))
    mha = random_model(tiny(arm(attention="mha", pos="rope"), bias=True))
    state = gqa.state_dict()
    for key, value in state.items():
        if ".attention.k." in key or ".attention.v." in key:
            state[key] = value.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    mha.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(mha(rows(2, CONTEXT)), gqa(rows(2, CONTEXT)), rtol=0, atol=1e-12)


def test_gqa_with_all_or_one_kv_head_equals_mha_or_mqa() -> None:
    """The state dicts are equal to the last bit."""
    for name, groups in (("mha", 4), ("mqa", 1)):
        cfg = tiny(arm(attention="gqa"))
        cfg.attention.n_kv_head = groups
        a, b = build(cfg, VOCAB).state_dict(), tiny_model(arm(attention=name)).state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# The forward


@pytest.mark.parametrize("tie", [True, False])
def test_loss_is_the_cross_entropy_of_the_logits(tie: bool) -> None:
    model, row = random_model(tiny(tie=tie)), rows(3, CONTEXT + 1)
    x, y = row[:, :-1], row[:, 1:]
    logits = model(x)
    assert logits.shape == (3, CONTEXT, VOCAB)
    expected = -logits.log_softmax(-1).gather(-1, y[..., None]).mean()
    torch.testing.assert_close(model(x, y), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(x, y), F.cross_entropy(logits.flatten(0, 1), y.flatten()))
    assert model.embed.num_embeddings == VOCAB and (model.head is None) == tie


def test_rows_of_a_batch_are_independent() -> None:
    model, row = random_model(tiny(arm(pos="alibi", attention="gqa"))), rows(4, CONTEXT)
    with torch.no_grad():
        separate = torch.cat([model(r[None]) for r in row])
        torch.testing.assert_close(model(row), separate, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", kernels("full"))
def test_learned_positions_reject_a_longer_input(kernel: str) -> None:
    model = tiny_model(arm(pos="learned", kernel=kernel))
    with pytest.raises(ValueError, match=rf"supports {CONTEXT} tokens, given {CONTEXT + 1}.*(rope|alibi)"):
        model(rows(1, CONTEXT + 1))
    cache = KVCache(2 * CONTEXT)
    model(rows(1, CONTEXT), context=cache)
    with pytest.raises(ValueError, match=f"given {CONTEXT + 1}"):
        model(rows(1, 1), context=cache)


@pytest.mark.parametrize("pos", [p for p in options("pos") if p != "learned"])
def test_other_encodings_accept_a_longer_input(pos: str) -> None:
    assert tiny_model(arm(pos=pos))(rows(1, 3 * CONTEXT)).isfinite().all()


def test_patterns_give_each_layer_its_own_window_and_encoding() -> None:
    """`Window.at` defines each layer's window; layers with equal windows share one view."""

    class Alternating(type(part(tiny().window))):  # type: ignore[misc]
        def at(self, layer: int, n_layer: int) -> Window:
            assert n_layer == 4
            sliding: Window = part(tiny(arm(window="sliding")).window)
            return sliding if layer % 2 else part(tiny().window)

    cfg = tiny(arm(pos="rope", kernel="reference"), n_layer=4)
    model = build(cfg, VOCAB)
    blocks, norm = [block for block in model.blocks if isinstance(block, Block)], partial(part, cfg.norm, model.shape)
    mixed = GPT(model.shape, blocks, norm, model.pos, Alternating(), model.kernel, tie=True, recompute=False)
    initialise(mixed, 0)
    mixed.double().eval()
    assert [window.reach for window in mixed.windows] == [None, SIZE, None, SIZE]
    views = mixed.views(dict.fromkeys(mixed.windows, Where.rows(CONTEXT)))
    assert views[0] is views[2] and views[1] is views[3] and views[0] is not views[1]
    cache, tokens = KVCache(CONTEXT), rows(2, CONTEXT)
    with torch.no_grad():
        steps = torch.cat([mixed(chunk, context=cache) for chunk in tokens.split([3, 1, 5, 3], 1)], 1)
        torch.testing.assert_close(steps, mixed(tokens), rtol=0, atol=1e-10)
    assert [cache.rings[layer][0].shape[1] for layer in range(4)] == [CONTEXT, SIZE, CONTEXT, SIZE]


# Initialisation


def wide(arm: Any, seed: int = 0, **model: Any) -> GPT:
    cfg = tiny(arm, **({"n_layer": 3, "d_model": 128, "n_head": 4, "bias": True} | model))
    cfg.seed = seed
    return build(cfg, 500)


def test_initialisation_equals_gpt2() -> None:
    model = wide(GPT2_ARM)
    seen = 0
    for key, p in model.named_parameters():
        kind = key.rpartition(".")[0].rpartition(".")[2]
        if key.endswith("bias"):
            assert (p == 0).all(), key
        elif "norm" in kind:
            assert (p == 1).all(), key
        else:
            std = 0.02 / 6**0.5 if kind == "out" else 0.02
            error = 4 * std / (2 * p.numel()) ** 0.5  # of a sample deviation, four times
            assert abs(p.std().item() - std) < error, key
            assert abs(p.mean().item()) < 4 * std / p.numel() ** 0.5, key
            seen += 1
    assert seen == 2 + 3 * 6, "embeddings of tokens and positions; q, k, v, out, up, out of each layer"


def test_untied_head_is_initialised() -> None:
    head = wide(GPT2_ARM, tie=False).head
    assert head is not None and abs(head.weight.std().item() - 0.02) < 1e-3


def test_seed_determines_the_weights() -> None:
    torch.manual_seed(1)
    a = wide(GPT2_ARM).state_dict()
    torch.manual_seed(2)
    torch.rand(5)
    b, other = wide(GPT2_ARM).state_dict(), wide(GPT2_ARM, seed=1).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    drawn = [key for key in a if a[key].dim() == 2]
    assert len(drawn) == 20 and not any(torch.equal(a[key], other[key]) for key in drawn)


@pytest.mark.parametrize("attention", options("attention"))
@pytest.mark.parametrize("other", [{"pos": "fire"}, {"pos": "kerple"}, {"ffn": "moe"}, {"ffn": "swiglu"}])
def test_random_numbers_of_a_part_do_not_depend_on_other_parts(attention: str, other: dict[str, str]) -> None:
    a = wide(arm(attention=attention, pos="alibi"), bias=False).state_dict()
    b = wide(arm(attention=attention, **({"pos": "alibi"} | other)), bias=True).state_dict()
    own = [key for key in a if ".attention." in key]
    assert own and all(torch.equal(a[key], b[key]) for key in own)


def test_weight_decay_applies_to_matrices_only() -> None:
    model = tiny_model(arm(ffn="moe", attention="differential", pos="kerple"), bias=True)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in decay_groups(model, 0.1))
    assert {"blocks.0.ffn.out", "blocks.1.ffn.gate", "embed.weight"} <= decayed
    assert {"blocks.0.attention.lambda_q1", "pos.a", "norm.weight", "blocks.0.attention.q.bias"} <= free
    assert decayed | free == set(names.values())


def test_weights_are_drawn_from_distinct_streams() -> None:
    drawn = [p.flatten()[:500] for seed in (0, 1) for p in wide(GPT2_ARM, seed).parameters() if p.dim() == 2]
    correlation = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert correlation.abs().max() < 0.25, "5.5 deviations of what independent ones show"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (arm(attention="mha", pos="rope"), arm(attention="mha", pos="alibi")),
        (arm(attention="mha", pos="rope"), arm(attention="mha", pos="learned")),
        (arm(attention="mha", pos="rope"), arm(attention="gqa", pos="rope")),
        (arm(attention="mha", window="full"), arm(attention="mha", window="sliding")),
        (arm(ffn="gelu"), arm(ffn="swiglu")),
        (arm(norm="layernorm"), arm(norm="rmsnorm")),
    ],
    ids=lambda a: "-".join(o for _, o in a),
)
def test_arms_start_with_equal_shared_weights(one: Any, other: Any) -> None:
    a, b = wide(one).state_dict(), wide(other).state_dict()
    same = [key for key in a.keys() & b.keys() if a[key].shape == b[key].shape]
    assert all(torch.equal(a[key], b[key]) for key in same)
    assert {"embed.weight", "blocks.2.attention.q.weight", "blocks.0.attention.out.weight"} <= set(same)
    if ("ffn", "swiglu") not in other:
        assert "blocks.1.ffn.up.weight" in same


# Cost


def held_bytes(model: GPT, context: int) -> int:
    cache = KVCache(context)
    with torch.no_grad():
        for token in rows(1, context).split(1, dim=1):
            model(token, context=cache)
    return cache.nbytes()


@pytest.mark.parametrize(("attention", "window"), every_option(options("attention"), options("window")))
def test_cache_cost_equals_allocated_bytes(attention: str, window: str) -> None:
    model = tiny_model(arm(attention=attention, window=window))
    expected = held_bytes(model, CONTEXT) / CONTEXT
    assert cost(model, torch.float32).kv_bytes_per_token == expected
    with torch.device("meta"):
        on_meta = tiny_model(arm(attention=attention, window=window))
    assert cost(on_meta, torch.float32) == cost(model, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert cost(model, torch.bfloat16).kv_bytes_per_token == held_bytes(model, CONTEXT) / CONTEXT


@pytest.mark.parametrize("option", options("kernel"))
def test_cost_does_not_depend_on_the_kernel(option: str) -> None:
    """A kernel may need a device, a package or a dtype that this machine does not have."""
    model = tiny_model(arm(window="sliding"))
    price = cost(model, torch.bfloat16)
    model.use_kernel(part(yaml("kernel", option), model.shape, frozenset()))
    assert cost(model, torch.bfloat16) == price
    assert model.kernel.__class__.__module__ == f"gptx.kernel.{option}", "the kernel is restored"


@pytest.mark.parametrize(
    ("attention", "ffn", "tie", "kernel"),
    [
        (attention, ffn, (i + j) % 2 == 0, ("reference", "sdpa")[(i + j // 2) % 2])
        for i, attention in enumerate(options("attention"))
        for j, ffn in enumerate(options("ffn"))
    ],
)
def test_flops_equal_torch_counter(attention: str, ffn: str, tie: bool, kernel: str) -> None:
    """torch counts all T x T pairs of a layer, `cost` the T (T + 1) / 2 visible ones. The difference is, per token and
    layer, (T - 1) / 2 pairs of `pair_macs` multiply-adds, two FLOPs each, in the forward and in two gradients."""
    batch = 3
    model = random_model(tiny(arm(attention=attention, ffn=ffn, kernel=kernel, window="full"), tie=tie, bias=True))
    row, [macs] = rows(batch, CONTEXT + 1), pair_macs(model).values()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(row[:, :-1], row[:, 1:]).backward()
    hidden = 6 * macs * (CONTEXT - 1)
    assert hidden % 2 == 0
    counted, rest = divmod(counter.get_total_flops(), batch * CONTEXT)
    assert rest == 0
    assert counted == cost(model, torch.float32).flops_per_token + hidden // 2


def test_flops_of_sliding_windows_exclude_hidden_pairs() -> None:
    full, sliding = (cost(tiny_model(arm(window=w)), torch.float32) for w in ("full", "sliding"))
    pairs = CONTEXT * (CONTEXT + 1) // 2 - sum(min(SIZE, t + 1) for t in range(CONTEXT))
    assert full.flops_per_token - sliding.flops_per_token == pytest.approx(6 * 2 * 32 * pairs / CONTEXT, abs=1)
    assert sliding.kv_bytes_per_token == full.kv_bytes_per_token * SIZE / CONTEXT
    assert full.n_params == sliding.n_params


# Dropout


def only_dropout_in(model: GPT, location: str) -> Iterator[nn.Module]:
    """Turn dropout off in all modules except those of one kind."""
    places = {"embedding": [model.drop], "residual": [b.drop for b in model.blocks], "attention": []}
    for place, modules in places.items():
        for module in modules:
            module.p = module.p if place == location else 0.0
    for module in model.kernel.modules():
        if location != "attention":
            module.p = 0.0
    yield model


@pytest.mark.parametrize("place", ["embedding", "residual", "attention"])
@pytest.mark.parametrize("kernel", kernels("sliding"))
def test_dropout_only_in_training(kernel: str, place: str) -> None:
    cfg = tiny(arm(kernel=kernel, window="sliding"), dropout=0.5)
    model, row = random_model(cfg), rows(2, CONTEXT)
    plain = random_model(tiny(arm(kernel=kernel, window="sliding")))
    for _ in only_dropout_in(model, location=place):
        with torch.no_grad():
            model.train()
            torch.manual_seed(0)
            a, b = model(row), model(row)
            torch.manual_seed(0)
            assert torch.equal(model(row), a), "a seeded step did not repeat"
            assert not torch.allclose(a, b), "nothing was dropped"
            model.eval()
            torch.testing.assert_close(model(row), plain(row), rtol=0, atol=1e-12)
            assert torch.equal(model(row), model(row))


def test_training_equals_evaluation_without_dropout() -> None:
    model, row = random_model(tiny()), rows(2, CONTEXT)
    assert torch.equal(model.train()(row), model.eval()(row))


# Precision


@pytest.mark.parametrize(("kernel", "pos"), every_option(kernels("sliding"), options("pos")))
def test_bf16_autocast_is_close_to_fp32(kernel: str, pos: str) -> None:
    model = wide(arm(kernel=kernel, pos=pos, attention="gqa", window="sliding"), d_model=64)
    randomise(model, std=0.2)
    row = rows(4, CONTEXT + 1)
    loss, logits = model(row[:, :-1], row[:, 1:]), model(row[:, :-1])
    loss.backward()
    low = copy.deepcopy(model)
    low.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        low_loss, low_logits = low(row[:, :-1], row[:, 1:]), low(row[:, :-1])
        cache = KVCache(CONTEXT)
        with torch.no_grad():
            steps = torch.cat([low(t, context=cache) for t in row[:, :-1].split(1, dim=1)], dim=1)
    low_loss.backward()
    assert low_logits.dtype == torch.bfloat16
    assert abs(low_loss.item() / loss.item() - 1) < 0.02
    for found in (low_logits, steps):
        assert (found.float() - logits).norm() < 0.03 * logits.norm()
    total_norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    for (key, p), q in zip(model.named_parameters(), low.parameters(), strict=True):
        assert q.grad is not None and q.grad.dtype == torch.float32, key
        if not key.endswith("attention.k.bias"):  # whose gradient is zero in theory, and noise in bf16
            # Sums that almost cancel, such as the gradient of a shared frequency, have the terms' rounding errors.
            assert (q.grad - p.grad).norm() < 0.15 * p.grad.norm() + 1e-4 * total_norm, key
