"""Attention variants: equality with Hugging Face's models or the paper's equations, the limits in
which they equal multi-head attention, rejected options, cost, and tensor parallelism."""

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers_model import (
    CONTEXT,
    SIZE,
    VOCAB,
    Arm,
    advice,
    arm,
    one_thread,  # noqa: F401 - a fixture
    options,
    random_model,
    rejected,
    rows,
    tiny,
)
from helpers_parity import LLAMA_ARM, from_llama, linear, same_logits, with_random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.attention.gqa import AttentionRMSNorm
from gptx.geometry.attention_view import Score
from gptx.geometry.visibility import Where
from gptx.model.build import build
from gptx.model.cache import KVCache, keep_nothing
from gptx.model.cost import cost
from gptx.model.gpt import GPT

NEW = ("sink", "gated", "forgetting", "differential", "mla")
LAYERS, HEADS, GROUPS, DIM, EPS = 2, 4, 2, 4, 1e-5  # of the tiny models below; DIM is the size of a head
PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 2e-6)])
GROUPED = pytest.mark.parametrize("groups", [HEADS, GROUPS])


def config_of(attention: str, model: dict[str, Any] | None = None, more: Arm = (), **keys: Any) -> DictConfig:
    """A tiny Llama's config with another attention; ``keys`` are the attention's."""
    cfg = tiny((*LLAMA_ARM[1:], *more, ("attention", attention)), **(model or {"bias": False}))
    cfg.ffn.ratio = 40 / 16
    cfg.attention.update(keys)
    return cfg


# Hugging Face's models


def hugging_face(kind: str, dtype: torch.dtype, **more: Any) -> nn.Module:
    """A tiny random model of this kind; ``more`` adds or replaces keys of its config."""
    import transformers

    keys = {
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": GROUPS,
        "hidden_size": 16,
        "head_dim": DIM,
        "intermediate_size": 40,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = getattr(transformers, f"{kind}Config")(**keys | more)
    return with_random_weights(getattr(transformers, f"{kind}ForCausalLM")(config), dtype)


def model_with(cfg: DictConfig, weights: dict[str, Tensor], dtype: torch.dtype) -> GPT:
    cfg.model.tie, cfg.pos.theta = False, 500.0
    model = build(cfg, VOCAB).to(dtype).eval()
    model.load_state_dict(weights)
    return model


def renamed(state: dict[str, Tensor], **names: str) -> dict[str, Tensor]:
    """All layers' weights by the names of gptx: Llama's, and those of ``self_attn`` in ``names``."""
    out = from_llama(state, LAYERS, tie=False)
    for layer in range(LAYERS):
        for hf_name, name in names.items():
            out |= linear(f"model.layers.{layer}.self_attn.{hf_name}", f"blocks.{layer}.attention.{name}", state)
    return out


def each_layer(state: dict[str, Tensor], name: str) -> list[tuple[str, Tensor]]:
    """("blocks.0.attention", the weight of that name), ..."""
    return [(f"blocks.{i}.attention", state[f"model.layers.{i}.self_attn.{name}"]) for i in range(LAYERS)]


@PRECISIONS
def test_biases_equal_those_of_llama(dtype: torch.dtype, tolerance: float) -> None:
    hf = hugging_face("Llama", dtype, attention_bias=True)
    weights = renamed(hf.state_dict())
    assert weights["blocks.1.attention.k.bias"].abs().min() > 0
    same_logits(model_with(config_of("gqa", bias=True), weights, dtype), hf, tolerance)


@PRECISIONS
def test_qk_norm_equals_qwen3(dtype: torch.dtype, tolerance: float) -> None:
    hf = hugging_face("Qwen3", dtype, rms_norm_eps=1e-6)
    cfg = config_of("gqa", qk_norm=True)
    cfg.norm.eps = 1e-6
    weights = renamed(hf.state_dict(), q_norm="q_norm", k_norm="k_norm")
    same_logits(model_with(cfg, weights, dtype), hf, tolerance)


@PRECISIONS
@pytest.mark.parametrize("softcap", [0.5, 50.0])
def test_softcap_equals_gemma2(dtype: torch.dtype, tolerance: float, softcap: float) -> None:
    """Only one layer's attention, because the rest of Gemma 2 differs in other ways too."""
    from transformers import Gemma2Config
    from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention

    config = Gemma2Config(
        hidden_size=16, num_attention_heads=HEADS, num_key_value_heads=GROUPS, head_dim=DIM, query_pre_attn_scalar=DIM
    )
    config.attn_logit_softcapping, config._attn_implementation = softcap, "eager"
    reference = with_random_weights(Gemma2Attention(config, 1), dtype)
    model = build(config_of("gqa", softcap=softcap), VOCAB).to(dtype)
    names = {name: {"o_proj": "out"}.get(name, name[0]) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    weights = {f"{names[key.partition('.')[0]]}.weight": value for key, value in reference.state_dict().items()}
    attention = model.blocks[0].attention
    attention.load_state_dict(weights)
    x = torch.randn(2, CONTEXT, 16, dtype=dtype, generator=torch.Generator().manual_seed(0))
    angle = torch.arange(CONTEXT)[None, :, None] / 10000.0 ** (torch.arange(0, DIM, 2) / DIM)
    angle = torch.cat((angle, angle), dim=-1)
    hidden = torch.full((CONTEXT, CONTEXT), float("-inf"), dtype=dtype).triu(1)
    with torch.no_grad():
        expected = reference(x, (angle.cos().to(dtype), angle.sin().to(dtype)), hidden)[0]
        torch.testing.assert_close(first_attention(model, x), expected, rtol=tolerance, atol=tolerance)
        attention.softcap = 0.0
        assert not torch.allclose(first_attention(model, x), expected, rtol=0, atol=1e-3 / softcap)


def first_attention(model: GPT, x: Tensor, attention: Attention | None = None) -> Tensor:
    """The output of the first layer's attention for rows (B, T, D)."""
    view = model.views(dict.fromkeys(model.windows, Where.rows(x.shape[1])))[0]
    y: Tensor = (attention or model.blocks[0].attention)(x, view, keep_nothing)
    return y


def split_halves(weight: Tensor, dim: int) -> Tensor:
    """(heads * dim, ...) rows of rotary pairs (0, 1), (2, 3), ... in gptx's order: (0, dim/2), (1, dim/2 + 1), ..."""
    return weight.unflatten(0, (-1, dim // 2, 2)).transpose(1, 2).flatten(0, 2)


@PRECISIONS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("q_rank", [0, 6])
@pytest.mark.parametrize("kind", ["DeepseekV2", "DeepseekV3"])
def test_mla_equals_deepseek(kind: str, q_rank: int, bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    rank, rope = 10, 6
    hf = hugging_face(
        kind,
        dtype,
        num_key_value_heads=HEADS,
        q_lora_rank=q_rank or None,
        kv_lora_rank=rank,
        qk_nope_head_dim=DIM,
        qk_rope_head_dim=rope,
        v_head_dim=DIM,
        head_dim=rope,
        attention_bias=bias,
        first_k_dense_replace=LAYERS,
        num_experts_per_tok=1,
    )
    state = hf.state_dict()
    weights = renamed(state, q_a_proj="q_down", q_a_layernorm="q_norm", kv_a_layernorm="kv_norm", kv_b_proj="kv")
    for at, q in each_layer(state, "q_b_proj.weight" if q_rank else "q_proj.weight"):
        plain, turned = q.unflatten(0, (HEADS, -1)).split((DIM, rope), dim=1)
        turned = split_halves(turned.flatten(0, 1), rope).unflatten(0, (HEADS, -1))
        weights[f"{at}.q.weight"] = torch.cat((plain, turned), dim=1).flatten(0, 1)
    for key in ("weight", "bias") if bias else ("weight",):
        for at, both in each_layer(state, f"kv_a_proj_with_mqa.{key}"):
            weights[f"{at}.kv_down.{key}"] = both[:rank]
            weights[f"{at}.k.{key}"] = split_halves(both[rank:], rope)
    model = model_with(config_of("mla", kv_rank=rank, q_rank=q_rank, rope_dim=rope, bias=bias), weights, dtype)
    same_logits(model, hf, tolerance)


@PRECISIONS
@GROUPED
def test_differential_equals_diffllama(dtype: torch.dtype, tolerance: float, groups: int) -> None:
    hf = hugging_face("DiffLlama", dtype, num_key_value_heads=groups, attention_bias=True)
    state = hf.state_dict()
    vectors = {f"lambda_{name}" for name in ("q1", "k1", "q2", "k2")}
    weights = renamed(state)
    for name in vectors:
        weights |= {f"{at}.{name}": value for at, value in each_layer(state, name)}
    for key in [key for key in weights if ".attention." in key and key.rpartition(".")[0][-1] in "qkv"]:
        per_key = HEADS // groups if ".q." in key else 1
        # Hugging Face stores the first heads of all pairs, then the second ones.
        pairs = weights[key].unflatten(0, (2, groups // 2, per_key * DIM))
        weights[key] = pairs.transpose(0, 1).flatten(0, 2)
    model = model_with(config_of("differential", n_kv_head=groups, bias=True), weights, dtype)
    for layer, block in enumerate(model.blocks):
        block.attention.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer)
    same_logits(model, hf, tolerance)


@PRECISIONS
def test_gated_equals_qwen3_next(dtype: torch.dtype, tolerance: float) -> None:
    """A full model with gated layers only and fully rotated heads."""
    hf = hugging_face(
        "Qwen3Next",
        dtype,
        rms_norm_eps=1e-6,
        attention_bias=True,
        layer_types=["full_attention"] * LAYERS,
        mlp_only_layers=list(range(LAYERS)),
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
    )
    # Hugging Face's norm multiplies by 1 + w.
    state = {key: value + 1 if "norm" in key else value for key, value in hf.state_dict().items()}
    weights = renamed(state, q_norm="q_norm", k_norm="k_norm")
    for key in ("weight", "bias"):
        for at, both in each_layer(state, f"q_proj.{key}"):
            q, gate = both.unflatten(0, (HEADS, 2, DIM)).unbind(1)
            weights |= {f"{at}.q.{key}": q.flatten(0, 1), f"{at}.gate.{key}": gate.flatten(0, 1)}
    cfg = config_of("gated", n_kv_head=GROUPS, qk_norm=True, bias=True)
    cfg.norm.eps = 1e-6
    same_logits(model_with(cfg, weights, dtype), hf, tolerance)


@PRECISIONS
@pytest.mark.parametrize("window", ["full", "sliding"])
def test_sink_equals_gpt_oss(dtype: torch.dtype, tolerance: float, window: str) -> None:
    """A full model with one expert, activation slope 1 and an unreachable clamp: its experts then equal SwiGLU."""
    hf = hugging_face(
        "GptOss",
        dtype,
        num_local_experts=1,
        num_experts_per_tok=1,
        swiglu_alpha=1.0,
        swiglu_limit=1e9,
        sliding_window=SIZE,
        layer_types=[f"{window}_attention"] * LAYERS,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    state = hf.state_dict()
    weights = renamed(state) | {f"{at}.sink.weight": value for at, value in each_layer(state, "sinks")}
    for layer in range(LAYERS):
        expert, at = f"model.layers.{layer}.mlp.experts", f"blocks.{layer}.ffn"
        for kind, suffix in (("weight", ""), ("bias", "_bias")):
            both, down = (state[f"{expert}.{name}{suffix}"][0] for name in ("gate_up_proj", "down_proj"))
            if kind == "weight":
                both, down = both.T, down.T
            weights |= {f"{at}.gate.{kind}": both[0::2], f"{at}.up.{kind}": both[1::2], f"{at}.out.{kind}": down}
        weights[f"{at}.up.bias"] = weights[f"{at}.up.bias"] + 1  # Hugging Face computes gate * (up + 1)
    cfg = config_of("sink", {"bias": True}, arm(window=window), n_kv_head=GROUPS)
    same_logits(model_with(cfg, weights, dtype), hf, tolerance)


# The papers' equations in plain loops


def heads(layer: nn.Linear, x: Tensor, dim: int) -> Tensor:
    """(T, heads, dim) of one row x (T, D)."""
    return (x @ layer.weight.T + layer.bias).unflatten(-1, (-1, dim))


@GROUPED
def test_forgetting_equals_the_equation_of_the_paper(groups: int) -> None:
    """FoX: o_i = sum_j F_ij exp(q_i.k_j / sqrt d) v_j / sum_j F_ij exp(q_i.k_j / sqrt d), F_ij = prod of f_l for
    l = j+1..i, f_t = sigmoid(w_f x_t + b_f)."""
    model = random_model(config_of("forgetting", {"bias": True}, arm(pos="none"), n_kv_head=groups))
    attention, x = model.blocks[0].attention, torch.randn(1, CONTEXT, 16, dtype=torch.float64)
    q, k, v = (heads(layer, x[0], DIM) for layer in (attention.q, attention.k, attention.v))
    f = torch.sigmoid(heads(attention.forget, x[0], 1))[..., 0]  # (T, G)
    y = torch.zeros(CONTEXT, HEADS, DIM, dtype=torch.float64)
    for i in range(CONTEXT):
        for h in range(HEADS):
            g = h // (HEADS // groups)
            weights = [f[j + 1 : i + 1, g].prod() * (q[i, h] @ k[j, g] / DIM**0.5).exp() for j in range(i + 1)]
            y[i, h] = sum(w * v[j, g] for j, w in enumerate(weights)) / sum(weights)
    expected = y.flatten(1) @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(first_attention(model, x)[0], expected, rtol=0, atol=1e-12)


@GROUPED
@pytest.mark.parametrize("per_head", [True, False])
def test_gated_equals_the_equation_of_the_paper(groups: int, per_head: bool) -> None:
    """Qiu et al.: Y' = Y * sigmoid(X W), by heads or by elements, before the output layer."""
    model = random_model(config_of("gated", {"bias": True}, n_kv_head=groups, per_head=per_head))
    plain = random_model(config_of("gqa", {"bias": True}, n_kv_head=groups))
    attention, x = model.blocks[0].attention, torch.randn(2, CONTEXT, 16, dtype=torch.float64)
    before = {key: value for key, value in attention.state_dict().items() if "gate" not in key}
    plain.blocks[0].attention.load_state_dict(before)
    plain.blocks[0].attention.out = nn.Identity()
    gate = 1 / (1 + (-(x @ attention.gate.weight.T + attention.gate.bias)).exp())
    y = first_attention(plain, x) * (gate.repeat_interleave(DIM, dim=-1) if per_head else gate)
    torch.testing.assert_close(first_attention(model, x), attention.out(y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("per_head", [True, False])
def test_one_gate_per_head_has_fewer_weights(per_head: bool) -> None:
    gate = build(config_of("gated", per_head=per_head), VOCAB).blocks[0].attention.gate
    assert gate.weight.shape == (HEADS if per_head else HEADS * DIM, 16)


# Limits in which a variant equals a simpler one


def multi_head(model: GPT) -> GPT:
    """Multi-head attention with the weights that a larger variant shares with it."""
    plain = random_model(config_of("mha", {"bias": True}))
    state = model.state_dict()
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    return plain


@pytest.mark.parametrize(
    ("attention", "parameter", "limit", "other"),
    [
        ("sink", "sink.weight", -1e9, 1.0),
        ("gated", "gate.bias", 60.0, 1.0),
        ("forgetting", "forget.bias", 60.0, 1.0),
    ],
)
def test_limits_equal_multi_head_attention(attention: str, parameter: str, limit: float, other: float) -> None:
    model, tokens = random_model(config_of(attention, {"bias": True})), rows(2, CONTEXT)
    with torch.no_grad():
        expected = multi_head(model)(tokens)
        for value, same in ((limit, True), (other, False)):
            for block in model.blocks:
                block.attention.get_parameter(parameter).fill_(value)
            assert torch.allclose(model(tokens), expected, rtol=0, atol=1e-12) is same


def test_output_is_zero_for_infinite_sinks_and_closed_gates() -> None:
    x = torch.randn(1, CONTEXT, 16, dtype=torch.float64)
    for attention, parameter, value in (("sink", "sink.weight", 1e9), ("gated", "gate.bias", -1e9)):
        model = random_model(config_of(attention, {"bias": True}))
        layer = model.blocks[0].attention
        with torch.no_grad():
            layer.get_parameter(parameter).fill_(value)
            torch.testing.assert_close(first_attention(model, x), layer.out.bias.expand_as(x), rtol=0, atol=1e-12)


def test_initial_sink_is_softmax_off_by_one() -> None:
    """Miller: exp(l_i) / (1 + sum exp(l_j))."""
    model = build(config_of("sink", {"bias": False}, arm(pos="none")), VOCAB).double()
    attention, x = model.blocks[0].attention, 9 * torch.randn(1, CONTEXT, 16, dtype=torch.float64)
    q, k, v = ((x[0] @ layer.weight.T).unflatten(-1, (HEADS, DIM)) for layer in (attention.q, attention.k, attention.v))
    exp = (torch.einsum("qhd,khd->hqk", q, k) / DIM**0.5).exp().tril()
    y = torch.einsum("hqk,khd->qhd", exp / (1 + exp.sum(-1, keepdim=True)), v)
    torch.testing.assert_close(first_attention(model, x)[0], y.flatten(1) @ attention.out.weight.T, rtol=0, atol=1e-12)


@GROUPED
def test_differential_cancels_equal_heads(groups: int) -> None:
    model = random_model(config_of("differential", {"bias": True}, n_kv_head=groups, lambda_init=0.0))
    attention, x = model.blocks[0].attention, torch.randn(1, CONTEXT, 16, dtype=torch.float64)
    with torch.no_grad():
        attention.lambda_q1.fill_(math.log(2) / DIM)
        attention.lambda_k1.fill_(1)
        attention.lambda_q2.zero_()
        assert attention.factor().item() == pytest.approx(1)
        assert not torch.allclose(first_attention(model, x), attention.out.bias.expand_as(x))
        for layer in (attention.q, attention.k):
            for parameter in (layer.weight, layer.bias):
                per_key = HEADS // groups if layer is attention.q else 1
                first = parameter.unflatten(0, (groups // 2, 2, per_key * DIM))
                first[:, 1] = first[:, 0]
        torch.testing.assert_close(first_attention(model, x), attention.out.bias.expand_as(x), rtol=0, atol=1e-9)


def test_initial_lambda_is_near_lambda_init() -> None:
    """The four vectors are drawn with std 0.1: both products are near 0, and their exponentials cancel."""
    model = build(config_of("differential", {"d_model": 256}, lambda_init=0.6), VOCAB)
    for block in model.blocks:
        assert block.attention.factor().item() == pytest.approx(0.6, abs=0.6)
        assert 0.07 < block.attention.lambda_q1.std() < 0.13
    first, second = (block.attention.lambda_k2 for block in model.blocks)
    assert not torch.equal(first, second)


# Latents


@settings(max_examples=10)
@given(data=st.data())
def test_absorbed_and_expanded_latents_are_equal(data: st.DataObject) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    n_head, dim = draw(1, 4), 2 * draw(1, 4)
    keys = {"kv_rank": draw(0, 9), "q_rank": draw(0, 9), "rope_dim": 2 * draw(0, 3), "bias": data.draw(st.booleans())}
    sizes = {"n_head": n_head, "d_model": n_head * dim, "bias": True}
    pos, window = data.draw(st.sampled_from(options("pos"))), data.draw(st.sampled_from(["full", "sliding"]))
    model = random_model(config_of("mla", sizes, arm(pos=pos, window=window), softcap=draw(0, 2), **keys))
    view = model.views(dict.fromkeys(model.windows, Where.after(CONTEXT - 3, CONTEXT - 3, 3, "cpu")))[0]
    attention = model.blocks[0].attention
    rank, rope = attention.kv_norm.weight.shape[0], attention.rotary_dim
    random = lambda *shape: torch.randn(2, *shape, dtype=torch.float64)  # noqa: E731
    given_ = random(3, n_head, dim), random(3, n_head, rope), random(CONTEXT, rank), random(CONTEXT, 1, rope)
    torch.testing.assert_close(
        attention.absorbed(*given_, view), attention.expanded(*given_, view), rtol=1e-10, atol=1e-10
    )


def test_mla_absorbs_latents_where_that_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = random_model(config_of("mla")), rows(1, CONTEXT)
    taken: list[str] = []
    for name in ("absorbed", "expanded"):
        method = getattr(type(model.blocks[0].attention), name)
        monkeypatch.setattr(
            type(model.blocks[0].attention),
            name,
            lambda *args, method=method, name=name: (taken.append(name), method(*args))[1],
        )
    cache = KVCache(CONTEXT)
    for count, expected in ((3, "expanded"), (1, "absorbed"), (3, "absorbed"), (4, "expanded")):
        at = cache.length
        model(tokens[:, at : at + count], context=cache)
        assert taken[-LAYERS:] == [expected] * LAYERS
    model(tokens)
    assert taken[-LAYERS:] == ["expanded"] * LAYERS


@pytest.mark.parametrize("n_head", [4, 8])
def test_mla_cache_size(n_head: int) -> None:
    """In the paper: 4 D + D/2 numbers per token and layer; multi-head attention caches 2 H D."""
    sizes = {"n_head": n_head, "d_model": 8 * n_head, "bias": False}
    latent, full = (cost(build(config_of(name, sizes), VOCAB), torch.float32) for name in ("mla", "mha"))
    assert latent.kv_bytes_per_token == 4 * LAYERS * 4.5 * 8
    assert latent.kv_bytes_per_token / full.kv_bytes_per_token == 4.5 / (2 * n_head)


@pytest.mark.parametrize(
    ("attention", "numbers"), [("sink", 0), ("gated", 0), ("differential", 0), ("forgetting", GROUPS)]
)
def test_cache_size_of_gqa_variants(attention: str, numbers: int) -> None:
    variant, plain = (
        cost(build(config_of(name, n_kv_head=GROUPS), VOCAB), torch.float32).kv_bytes_per_token
        for name in (attention, "gqa")
    )
    assert variant - plain == 4 * LAYERS * numbers, "one gate a key/value head"


# Options, precision, compiler


def random_variant(data: st.DataObject) -> DictConfig:
    """A random variant with random sizes and options."""
    name, dim = data.draw(st.sampled_from(NEW)), data.draw(st.sampled_from([2, 4, 6]))
    groups = data.draw(st.sampled_from([2, 4] if name == "differential" else [1, 2, 3]))
    n_head = groups * data.draw(st.integers(1, 2))
    cfg = config_of(name, {"n_head": n_head, "d_model": n_head * dim, "bias": data.draw(st.booleans())})
    found = {"n_kv_head": groups, "q_rank": data.draw(st.integers(0, 5)), "softcap": data.draw(st.sampled_from([0, 2]))}
    cfg.attention.update({key: value for key, value in found.items() if key in cfg.attention})
    for key, value in cfg.attention.items():
        if isinstance(value, bool):
            cfg.attention[key] = data.draw(st.booleans())
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


OPTIONS = {"softcap": 0.5, "qk_norm": True, "bias": True, "per_head": True}


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
        found = getattr(piece, child)
        if cut in ("col", "row"):
            found.weight.data = found.weight.data.chunk(ranks, 0 if cut == "col" else 1)[rank]
            if getattr(found, "bias", None) is not None:
                found.bias.data = found.bias.data.chunk(ranks, 0)[rank] if cut == "col" else found.bias.data / ranks
    return piece


@pytest.mark.parametrize("groups", [8, 4])
@pytest.mark.parametrize("attention", ["gqa", *NEW])
def test_heads_can_be_split_over_processes(attention: str, groups: int) -> None:
    """With columns of the head projections and rows of the output layer, the shards' outputs sum to the full output."""
    keys = {} if attention == "mla" else {"n_kv_head": groups, "qk_norm": True}
    cfg = config_of(attention, {"n_head": 8, "d_model": 32, "bias": True}, **keys)
    model, x = random_model(cfg), torch.randn(2, CONTEXT, 32, dtype=torch.float64)
    complete = model.blocks[0].attention
    with torch.no_grad():
        parts = [first_attention(model, x, part_of(complete, rank, 2)) for rank in range(2)]
        torch.testing.assert_close(sum(parts), first_attention(model, x), rtol=0, atol=1e-12)
        assert not torch.allclose(parts[0], parts[1])
