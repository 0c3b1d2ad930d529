"""Logits equal those of tiny random models of Hugging Face."""

import pytest
import torch
from helpers_model import CONTEXT, SIZE, VOCAB, arm, kernels, parameter_count, tiny
from helpers_parity import (
    GPT2_ARM,
    LLAMA_ARM,
    both_dtypes,
    from_gpt2,
    from_llama,
    hugging_face,
    same_logits,
    with_random_weights,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gptx.config.instantiate import part
from gptx.geometry.model_shape import ModelShape
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.pos.alibi import slopes


@pytest.mark.parametrize("kernel", kernels("full"))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_gpt2_equals_transformers(kernel: str, dtype: torch.dtype, tolerance: float) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2, n_head=4, n_embd=16, n_positions=CONTEXT, vocab_size=VOCAB, bos_token_id=0, eos_token_id=0
    )
    hf = with_random_weights(GPT2LMHeadModel(config), dtype)
    model = build(tiny((*GPT2_ARM, ("kernel", kernel)), bias=True), VOCAB).to(dtype).eval()
    model.load_state_dict(from_gpt2(hf.state_dict(), 2))
    same_logits(model, hf, tolerance)
    assert parameter_count(model) == parameter_count(hf)


def llama_pair(kind: str, dtype: torch.dtype, tie: bool, window: str, theta: float) -> tuple[GPT, nn.Module]:
    extra = {"sliding_window": SIZE, "attn_implementation": "eager"} if window == "sliding" else {}
    hf = hugging_face(kind, dtype, theta, tie, **extra)
    cfg = tiny((*(a for a in LLAMA_ARM if a[0] != "window"), ("window", window)), bias=False, tie=tie)
    cfg.ffn.ratio, cfg.pos.theta = 40 / 16, theta
    model = build(cfg, VOCAB).to(dtype).eval()
    model.load_state_dict(from_llama(hf.state_dict(), 2, tie))
    return model, hf


@both_dtypes
@pytest.mark.parametrize("theta", [10000.0, 500.0])
@pytest.mark.parametrize("tie", [True, False])
def test_llama_equals_transformers(dtype: torch.dtype, tolerance: float, theta: float, tie: bool) -> None:
    same_logits(*llama_pair("Llama", dtype, tie, "full", theta), tolerance)


@both_dtypes
def test_mistral_sliding_window_equals_transformers(dtype: torch.dtype, tolerance: float) -> None:
    model, hf = llama_pair("Mistral", dtype, False, "sliding", 10000.0)
    assert model.windows[0].reach == SIZE < CONTEXT
    same_logits(model, hf, tolerance)
    wide, _ = llama_pair("Mistral", dtype, False, "full", 10000.0)
    with pytest.raises(AssertionError, match="not close"):
        same_logits(wide, hf, 1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])
@settings(max_examples=10)
@given(theta=st.sampled_from([500.0, 10000.0, 1e6]), half=st.integers(1, 8), seed=st.integers(0, 99))
def test_rope_equals_llama(dtype: torch.dtype, tolerance: float, theta: float, half: int, seed: int) -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    cfg, dim = tiny(arm(pos="rope")), 2 * half
    cfg.pos.theta = theta
    shape = ModelShape(n_layer=1, n_head=2, d_model=2 * dim, context=99, vocab_size=9, dropout=0.0, bias=False)
    pos, at = part(cfg.pos, shape, dim, 2), torch.arange(99)[None]
    q, k = torch.randn(2, 1, 99, 2, dim, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    angle = at[..., None] / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.cat((angle, angle), -1)  # Llama's layout
    rotated = apply_rotary_pos_emb(q, k, angle.cos().to(dtype), angle.sin().to(dtype), unsqueeze_dim=2)
    for found, expected in zip(pos.rotate(q, k, pos.table(at)), rotated, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n_head", [1, 2, 3, 5, 6, 7, 8, 12, 16, 20, 25, 32, 40])
def test_alibi_slopes_equal_bloom_and_mpt(n_head: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    found = torch.tensor(slopes(n_head))
    bloom = build_alibi_tensor(torch.ones(1, 2), n_head, torch.float32)[:, 0, 1]
    torch.testing.assert_close(found, bloom, rtol=1e-5, atol=0)
    mpt = build_mpt_alibi_tensor(n_head, 3)  # (H, 1, 3): -slope * distance from the last key
    torch.testing.assert_close(-found[:, None] * torch.tensor([2.0, 1.0, 0.0]), mpt[:, 0], rtol=1e-5, atol=1e-7)
