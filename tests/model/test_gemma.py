"""Gemma 2 and Gemma 3 against transformers: their windows, norms, softcap, feed-forward and rotations at once."""

from typing import Any

import pytest
import torch
from helpers_model import CONTEXT, SIZE, VOCAB, arm, tiny
from helpers_parity import linear, same_logits, with_random_weights
from omegaconf import DictConfig
from torch import Tensor, nn

from gptx.model.build import build
from gptx.model.gpt import GPT

WIDTH, HIDDEN = 16, 40
TOLERANCE = 1e-5  # transformers computes these norms in float32 for either dtype
NAMES = {
    "input_layernorm": "norm1",
    "post_attention_layernorm": "after1",
    "pre_feedforward_layernorm": "norm2",
    "post_feedforward_layernorm": "after2",
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.out",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "mlp.gate_proj": "ffn.gate",
    "mlp.up_proj": "ffn.up",
    "mlp.down_proj": "ffn.out",
}


def from_gemma(state: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """Gemma's weights by the names of gptx. Its norms multiply by 1 + w. It ties the output layer to the embedding, but
    scales embeddings by sqrt(D), rounded to their dtype: so the model of gptx has two matrices."""
    t = {key.removeprefix("model."): value for key, value in state.items()}
    t = {key: 1 + value if "norm" in key else value for key, value in t.items()}
    head = t["embed_tokens.weight"]
    out = {"embed.weight": head * torch.tensor(WIDTH**0.5, dtype=head.dtype), "head.weight": head}
    out |= linear("norm", "norm", t)
    for layer in range(n_layer):
        for hf_name, name in NAMES.items():
            out |= linear(f"layers.{layer}.{hf_name}", f"blocks.{layer}.{name}", t)
    return out


def gemma(kind: str, dtype: torch.dtype, n_layer: int, **extra: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config" if kind == "Gemma2" else f"{kind}TextConfig")(
        num_hidden_layers=n_layer,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_size=WIDTH,
        head_dim=WIDTH // 4,
        query_pre_attn_scalar=WIDTH // 4,
        intermediate_size=HIDDEN,
        vocab_size=VOCAB,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-6,
        sliding_window=SIZE,
        final_logit_softcapping=None,
        hidden_activation="gelu_pytorch_tanh",
        attn_implementation="eager",
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
        **extra,
    )
    return with_random_weights(getattr(transformers, f"{kind}ForCausalLM")(config), dtype)


def gemma_config(n_layer: int, pos: str) -> DictConfig:
    parts = arm(
        attention="gqa", pos=pos, window="alternating", ffn="geglu", norm="rmsnorm", placement="peri", kernel="auto"
    )
    cfg = tiny(parts, n_layer=n_layer, tie=False, bias=False)
    cfg.ffn.ratio, cfg.ffn.tanh, cfg.norm.eps = HIDDEN / WIDTH, True, 1e-6
    return cfg


def model_with_weights_of(cfg: DictConfig, hf: nn.Module) -> GPT:
    dtype = next(hf.parameters()).dtype
    model = build(cfg, VOCAB).to(dtype).eval()
    model.load_state_dict(from_gemma(hf.state_dict(), cfg.model.n_layer))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gemma_2_equals_transformers(dtype: torch.dtype) -> None:
    """Alternating local and global layers, a softcap, GeGLU with tanh, norms before and after each branch."""
    hf = gemma("Gemma2", dtype, 3, attn_logit_softcapping=2.0)
    cfg = gemma_config(3, "rope")
    cfg.attention.softcap = 2.0
    model = model_with_weights_of(cfg, hf)
    assert [window.reach for window in model.windows] == [SIZE, None, SIZE]
    same_logits(model, hf, TOLERANCE)


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [("attention", "softcap", 0.0), ("window", "pattern", "GL"), ("window", "size", 4), ("ffn", "tanh", False)],
)
def test_each_part_of_gemma_2_changes_the_logits(group: str, key: str, value: Any) -> None:
    hf = gemma("Gemma2", torch.float64, 3, attn_logit_softcapping=2.0)
    cfg = gemma_config(3, "rope")
    cfg.attention.softcap = 2.0
    cfg[group][key] = value
    with pytest.raises(AssertionError, match="not close"):
        same_logits(model_with_weights_of(cfg, hf), hf, 5e-5)


def gemma_3_config() -> DictConfig:
    cfg = gemma_config(6, "rope_dual")
    cfg.attention.qk_norm, cfg.window.pattern = True, "LLLLLG"
    cfg.pos.theta, cfg.pos.global_theta = 30.0, 900.0
    return cfg


def gemma_3(dtype: torch.dtype) -> nn.Module:
    thetas = {"sliding_attention": 30.0, "full_attention": 900.0}
    rope = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()}
    return gemma("Gemma3", dtype, 6, rope_parameters=rope)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gemma_3_equals_transformers(dtype: torch.dtype) -> None:
    """Five local layers per global one, two rotary bases, and norms of queries and keys."""
    hf = gemma_3(dtype)
    model = model_with_weights_of(gemma_3_config(), hf)
    assert [window.reach for window in model.windows] == [SIZE] * 5 + [None]
    same_logits(model, hf, TOLERANCE)


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [("pos", "theta", 900.0), ("pos", "global_theta", 30.0), ("window", "pattern", "LLG"), ("window", "size", 6)],
)
def test_each_part_of_gemma_3_changes_the_logits(group: str, key: str, value: Any) -> None:
    hf, cfg = gemma_3(torch.float64), gemma_3_config()
    cfg[group][key] = value
    with pytest.raises(AssertionError, match="not close"):
        same_logits(model_with_weights_of(cfg, hf), hf, 5e-5)
