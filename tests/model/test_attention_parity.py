"""Attention variants against Hugging Face's models."""

import pytest
import torch
from helpers_attention import DIM, GROUPED, GROUPS, HEADS, LAYERS, config_of, first_attention
from helpers_model import CONTEXT, SIZE, VOCAB, arm
from helpers_parity import both_dtypes, from_llama, hugging_face, linear, same_logits, with_random_weights
from omegaconf import DictConfig
from torch import Tensor

from gptx.model.build import build
from gptx.model.gpt import GPT


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


@both_dtypes
def test_biases_equal_those_of_llama(dtype: torch.dtype, tolerance: float) -> None:
    hf = hugging_face("Llama", dtype, attention_bias=True)
    weights = renamed(hf.state_dict())
    assert weights["blocks.1.attention.k.bias"].abs().min() > 0
    same_logits(model_with(config_of("gqa", bias=True), weights, dtype), hf, tolerance)


@both_dtypes
def test_qk_norm_equals_qwen3(dtype: torch.dtype, tolerance: float) -> None:
    hf = hugging_face("Qwen3", dtype, rms_norm_eps=1e-6)
    cfg = config_of("gqa", qk_norm=True)
    cfg.norm.eps = 1e-6
    weights = renamed(hf.state_dict(), q_norm="q_norm", k_norm="k_norm")
    same_logits(model_with(cfg, weights, dtype), hf, tolerance)


@both_dtypes
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


def split_halves(weight: Tensor, dim: int) -> Tensor:
    """(heads * dim, ...) rows of rotary pairs (0, 1), (2, 3), ... in gptx's order: (0, dim/2), (1, dim/2 + 1), ..."""
    return weight.unflatten(0, (-1, dim // 2, 2)).transpose(1, 2).flatten(0, 2)


@both_dtypes
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


@both_dtypes
@GROUPED
@pytest.mark.parametrize("norm_weight", [True, False])
def test_differential_equals_diffllama(dtype: torch.dtype, tolerance: float, groups: int, norm_weight: bool) -> None:
    """DiffLlama's norm has no weight, which is a weight of ones."""
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
    if norm_weight:
        weights |= {f"blocks.{layer}.attention.pair_norm.weight": torch.ones(2 * DIM) for layer in range(LAYERS)}
    cfg = config_of("differential", n_kv_head=groups, norm_weight=norm_weight, bias=True)
    same_logits(model_with(cfg, weights, dtype), hf, tolerance)
    cfg.attention.lambda_rise = 0.0
    with pytest.raises(AssertionError, match="not close"):
        same_logits(model_with(cfg, weights, dtype), hf, 1e-3)


@both_dtypes
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


@both_dtypes
@pytest.mark.parametrize("window", ["full", "sliding"])
def test_sink_equals_gpt_oss(dtype: torch.dtype, tolerance: float, window: str) -> None:
    """A whole model with one expert, activation slope 1 and an unreachable clamp: the expert then equals SwiGLU."""
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
