"""Tiny random models of Hugging Face, conversion of their weights to the names of gptx, and comparison of logits."""

from typing import Any

import pytest
import torch
from helpers_model import CONTEXT, VOCAB, arm, randomise, rows
from torch import Tensor, nn

from gptx.model.gpt import GPT
from gptx.model.kv_cache import KVCache

GPT2_ARM = arm(attention="mha", pos="learned", window="full", ffn="gelu", norm="layernorm")
LLAMA_ARM = arm(attention="gqa", pos="rope", window="full", ffn="swiglu", norm="rmsnorm")
TINY_LLAMA: dict[str, Any] = {  # keys of the configs of Llama and similar models, with the sizes of the tiny models
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 16,
    "head_dim": 4,
    "intermediate_size": 40,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
# Hugging Face computes rotations and norms in fp32 whatever the dtype, so float64 is as close as fp32 lets it.
both_dtypes = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 2e-6)])


def with_random_weights(hf: nn.Module, dtype: torch.dtype) -> nn.Module:
    randomise(hf, std=0.5)  # with the usual 0.02, logits are so small that anything is close
    return hf.to(dtype).eval()


def hugging_face(kind: str, dtype: torch.dtype, theta: float = 500.0, tie: bool = False, **more: Any) -> nn.Module:
    """A tiny random model of this kind; ``more`` adds or replaces keys of its config."""
    import transformers

    keys = {**TINY_LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": theta}, "tie_word_embeddings": tie}
    config = getattr(transformers, f"{kind}Config")(**keys | more)
    return with_random_weights(getattr(transformers, f"{kind}ForCausalLM")(config), dtype)


def linear(name: str, ours: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{ours}.{kind}": state[f"{name}.{kind}"] for kind in ("weight", "bias") if f"{name}.{kind}" in state}


def split_heads(name: str, ours: str, state: dict[str, Tensor], n_head: int) -> dict[str, Tensor]:
    """The q, k and v of GPT-NeoX and BLOOM, which are adjacent in each head."""
    out = {}
    for kind in ("weight", "bias"):
        parts = state[f"{name}.{kind}"].unflatten(0, (n_head, 3, -1)).unbind(1)
        out |= {f"{ours}.attention.{x}.{kind}": part.flatten(0, 1) for x, part in zip("qkv", parts, strict=True)}
    return out


def from_gpt2(state: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """GPT2LMHeadModel's weights by the names of gptx: Conv1D is a transposed Linear, c_attn is q, k and v in one."""
    t = {key.removeprefix("transformer."): value for key, value in state.items()}
    t = {k: v.T if v.dim() == 2 and k.startswith("h.") else v for k, v in t.items()}
    out = {"embed.weight": t["wte.weight"], "pos.embedding.weight": t["wpe.weight"]} | linear("ln_f", "norm", t)
    for layer in range(n_layer):
        hf, our = f"h.{layer}", f"blocks.{layer}"
        out |= linear(f"{hf}.ln_1", f"{our}.norm1", t) | linear(f"{hf}.ln_2", f"{our}.norm2", t)
        out |= linear(f"{hf}.mlp.c_fc", f"{our}.ffn.up", t) | linear(f"{hf}.mlp.c_proj", f"{our}.ffn.out", t)
        out |= linear(f"{hf}.attn.c_proj", f"{our}.attention.out", t)
        for kind in ("weight", "bias"):
            parts = t[f"{hf}.attn.c_attn.{kind}"].chunk(3)
            out |= {f"{our}.attention.{x}.{kind}": part for x, part in zip("qkv", parts, strict=True)}
    return out


def from_llama(state: dict[str, Tensor], n_layer: int, tie: bool) -> dict[str, Tensor]:
    """LlamaForCausalLM's (and Mistral's) weights by the names of gptx; the tensors are unchanged."""
    t = {key.removeprefix("model."): value for key, value in state.items()}
    out = {"embed.weight": t["embed_tokens.weight"], "norm.weight": t["norm.weight"]}
    if not tie:
        out["head.weight"] = t["lm_head.weight"]
    names = {
        "input_layernorm": "norm1",
        "post_attention_layernorm": "norm2",
        "self_attn.q_proj": "attention.q",
        "self_attn.k_proj": "attention.k",
        "self_attn.v_proj": "attention.v",
        "self_attn.o_proj": "attention.out",
        "mlp.gate_proj": "ffn.gate",
        "mlp.up_proj": "ffn.up",
        "mlp.down_proj": "ffn.out",
    }
    for layer in range(n_layer):
        for theirs, ours in names.items():
            out |= linear(f"layers.{layer}.{theirs}", f"blocks.{layer}.{ours}", t)
    return out


def same_logits(ours: GPT, hf: nn.Module, tolerance: float) -> None:
    tokens = rows(3, CONTEXT)
    with torch.no_grad():
        expected = hf(tokens).logits
        assert expected.std() > 0.3, "logits this small would make anything close"
        torch.testing.assert_close(ours(tokens), expected, rtol=tolerance, atol=tolerance)
        cache = KVCache(CONTEXT)
        steps = torch.cat([ours(token, context=cache) for token in tokens.split(1, dim=1)], dim=1)
        torch.testing.assert_close(steps, expected, rtol=tolerance, atol=tolerance)
