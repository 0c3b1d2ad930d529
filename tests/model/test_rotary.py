"""Rotary encodings against their authors' formulas, torchscale, and full models of Hugging Face."""

import math
import re
from typing import Any

import pytest
import torch
from helpers_model import CONTEXT, VOCAB, arm, random_model, randomise, rejected, rows, tiny
from helpers_parity import (
    LLAMA_ARM,
    both_dtypes,
    from_llama,
    hugging_face,
    linear,
    same_logits,
    split_heads,
    with_random_weights,
)
from helpers_pos import encoding, frequencies, logits, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptx.model.build import build
from gptx.model.gpt import GPT


def small(model_arm: Any, pos: dict[str, Any], **model: Any) -> GPT:
    """A model with heads of 8 dims, so that there are four different frequencies."""
    cfg = tiny(model_arm, **{"d_model": 32, **model})
    cfg.pos.update(pos)
    if "ratio" in cfg.ffn:
        cfg.ffn.ratio = 2.0
    return build(cfg, VOCAB)


# Scaled rotary: Hugging Face's frequencies, and full Llama models


PARAMETERS = {
    "rope_linear": {"rope_type": "linear"},
    "rope_ntk": {"rope_type": "dynamic"},
    "rope_yarn": {"rope_type": "yarn", "beta_fast": 3.0, "beta_slow": 0.5},
    "rope_llama3": {"rope_type": "llama3", "low_freq_factor": 0.5, "high_freq_factor": 2.0},
}


def scaled(option: str, theta: float, factor: float, original: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of gptx and the equivalent parameters of Hugging Face."""
    hf_keys = {**PARAMETERS[option], "rope_theta": theta, "factor": factor}
    gptx_keys = {key: value for key, value in hf_keys.items() if not key.startswith("rope_")} | {"theta": theta}
    if option in ("rope_yarn", "rope_llama3"):
        return gptx_keys | {"original": original}, hf_keys | {"original_max_position_embeddings": original}
    if option == "rope_ntk":
        hf_keys["factor"] = factor - 1  # dynamic NTK at twice the length: factor * 2 - (factor - 1)
    return gptx_keys, hf_keys


@pytest.mark.parametrize("option", PARAMETERS)
@settings(max_examples=13)
@given(
    theta=st.sampled_from([20.0, 1e4, 5e5]),
    factor=st.floats(1.5, 64),
    half=st.integers(2, 64),
    original=st.integers(8, 10_000),
)
def test_scaled_frequencies_equal_transformers(
    option: str, theta: float, factor: float, half: int, original: int
) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    gptx_keys, hf_keys = scaled(option, theta, factor, original)
    config = LlamaConfig(head_dim=2 * half, max_position_embeddings=original, rope_parameters=hf_keys)
    expected, attention = ROPE_INIT_FUNCTIONS[hf_keys["rope_type"]](config, seq_len=2 * original)
    pos = encoding(option, head_dim=2 * half, **gptx_keys)
    torch.testing.assert_close(frequencies(pos, 2 * half).float(), expected, rtol=2e-5, atol=0)
    assert math.isclose(pos.logit_scale, attention**2, rel_tol=1e-12)
    assert (pos.logit_scale > 1) == (option == "rope_yarn")


@pytest.mark.parametrize("option", ["rope_yarn", "rope_llama3"])
def test_default_original_context_is_context_divided_by_factor(option: str) -> None:
    keys = {"factor": 8.0, "theta": 100.0, "head_dim": 64, "context": 1024}
    given_, default, other = (encoding(option, **keys, original=n) for n in (128, 0, 512))
    assert torch.equal(frequencies(given_, 64), frequencies(default, 64))
    assert not torch.allclose(frequencies(given_, 64), frequencies(other, 64))


@both_dtypes
@pytest.mark.parametrize("option", PARAMETERS)
def test_llama_with_scaled_positions_equals_transformers(option: str, dtype: torch.dtype, tolerance: float) -> None:
    gptx_keys, hf_keys = scaled(option, 100.0, 4.0, CONTEXT // 2)
    sizes = {"hidden_size": 32, "head_dim": 8, "intermediate_size": 64, "max_position_embeddings": CONTEXT // 2}
    hf = hugging_face("Llama", dtype, tie=True, rope_parameters=hf_keys, **sizes)
    for pos, keys in ((option, gptx_keys), ("rope", {"theta": 100.0})):
        model = small(arm(**{**dict(LLAMA_ARM), "pos": pos}), keys).to(dtype).eval()
        model.load_state_dict(from_llama(hf.state_dict(), 2, True))
        if pos == option:
            same_logits(model, hf, tolerance)
        else:
            with pytest.raises(AssertionError, match="not close"):
                same_logits(model, hf, 1e-3)


# Partial rotary


def from_neox(state: dict[str, Tensor], n_layer: int, n_head: int) -> dict[str, Tensor]:
    """GPTNeoXForCausalLM's weights by the names of gptx: q, k and v of each head are adjacent."""
    t = {key.removeprefix("gpt_neox."): value for key, value in state.items()}
    out = {"embed.weight": t["embed_in.weight"], "head.weight": state["lm_head.weight"]}
    out |= linear("final_layer_norm", "norm", t)
    for layer in range(n_layer):
        hf, our = f"layers.{layer}", f"blocks.{layer}"
        out |= linear(f"{hf}.input_layernorm", f"{our}.norm1", t)
        out |= linear(f"{hf}.post_attention_layernorm", f"{our}.norm2", t)
        out |= split_heads(f"{hf}.attention.query_key_value", our, t, n_head)
        out |= linear(f"{hf}.attention.dense", f"{our}.attention.out", t)
        out |= linear(f"{hf}.mlp.dense_h_to_4h", f"{our}.ffn.up", t)
        out |= linear(f"{hf}.mlp.dense_4h_to_h", f"{our}.ffn.out", t)
    return out


@both_dtypes
@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
def test_gpt_neox_equals_transformers(fraction: float, dtype: torch.dtype, tolerance: float) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": fraction},
        bos_token_id=0,
        eos_token_id=0,
    )
    hf = with_random_weights(GPTNeoXForCausalLM(config), dtype)
    parts = arm(attention="mha", pos="rope_partial", window="full", ffn="gelu", norm="layernorm")
    cfg = tiny(parts, d_model=32, bias=True, tie=False)
    cfg.ffn.update({"ratio": 2.0, "tanh": False})
    for used in (fraction, 0.75):
        cfg.pos.update({"theta": 100.0, "fraction": used})
        model = build(cfg, VOCAB).to(dtype).eval()
        model.load_state_dict(from_neox(hf.state_dict(), 2, 4))
        if used == fraction:
            same_logits(model, hf, tolerance)
        else:
            with pytest.raises(AssertionError, match="not close"):
                same_logits(model, hf, 1e-3)


@settings(max_examples=13)
@given(half=st.integers(1, 32), fraction=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_partial_rotary_rotates_the_first_dims_only(half: int, fraction: float, seed: int) -> None:
    dim, n = 2 * half, round(fraction * 2 * half)
    if n % 2 or not n:
        message = rejected(lambda: encoding("rope_partial", head_dim=dim, fraction=fraction))
        assert f"pos.fraction={fraction:g} rotates {n} of {dim} dims" in message
        use = float(re.findall(r"use pos\.fraction=([\d.]+)", message)[0])
        encoding("rope_partial", head_dim=dim, fraction=use)
        return
    pos, plain = encoding("rope_partial", head_dim=dim, fraction=fraction), encoding("rope", head_dim=n)
    at, x = torch.tensor([[0, 5, 900]]), normal(1, 3, 4, dim, seed=seed)
    for turned in pos.rotate(x, x, pos.table(at)):
        assert torch.equal(turned[..., n:], x[..., n:])
        assert torch.equal(turned[..., :n], plain.rotate(x[..., :n], x[..., :n], plain.table(at))[0])


# Learned frequencies


@pytest.mark.parametrize(("n_head", "heads", "shared"), [(4, 4, False), (4, 2, False), (6, 2, True), (4, 1, False)])
def test_rope_alpha_equals_its_formula(n_head: int, heads: int, shared: bool) -> None:
    """Each pair is a complex number times e^(i p alpha theta^(-2i/R)), alpha that of the key head's group."""
    pos = encoding("rope_alpha", n_head=n_head, heads=heads, shared=shared)
    assert pos.alpha.shape == (1 if shared else heads,) and (pos.alpha == 1).all()
    randomise(pos, std=1.0)
    at = torch.tensor([[0, 3, 1000]])
    q, k = normal(1, 3, n_head, 8), normal(1, 3, heads, 8, seed=1)
    with torch.no_grad():
        found = pos.rotate(q, k, pos.table(at))
    for x, turned in zip((q, k), found, strict=True):
        for h in range(x.shape[2]):
            alpha = pos.alpha[0 if shared else h // (x.shape[2] // heads)].item()
            for t, p in enumerate(at[0].tolist()):
                for i in range(4):
                    angle = p * alpha * 10000.0 ** (-2 * i / 8)
                    expected = complex(x[0, t, h, i], x[0, t, h, i + 4]) * complex(math.cos(angle), math.sin(angle))
                    assert abs(complex(turned[0, t, h, i], turned[0, t, h, i + 4]) - expected) < 1e-9


def test_rope_alpha_starts_equal_to_rope_and_learns() -> None:
    plain, learned = (random_model(tiny(arm(attention="gqa", pos=pos))) for pos in ("rope", "rope_alpha"))
    learned.load_state_dict(plain.state_dict() | {"pos.alpha": torch.ones(2)})
    tokens = rows(2, CONTEXT + 1)
    torch.testing.assert_close(learned(tokens), plain(tokens), rtol=0, atol=1e-13)
    loss = learned(tokens[:, :-1], tokens[:, 1:])
    (gradient,) = torch.autograd.grad(loss, [learned.pos.alpha])
    for g in range(2):  # gradient of each head's alpha, by finite differences
        step = torch.zeros(2, dtype=torch.float64)
        step[g] = 1e-6
        with torch.no_grad():
            learned.pos.alpha += step
            slope = (learned(tokens[:, :-1], tokens[:, 1:]) - loss) / 1e-6
            learned.pos.alpha -= step
        assert abs(slope - gradient[g]) < 1e-4 * gradient.abs().max()


# xPos


def torchscale(x: Tensor, downscale: bool, theta: float, scale_base: float, gamma: float) -> Tensor:
    """torchscale's XPOS.forward for (T, R), whose pairs are neighbours; positions start at -T/2 there."""
    length, dim = x.shape
    scale = (torch.arange(0, dim, 2, dtype=x.dtype) + gamma * dim) / ((1 + gamma) * dim)
    scale = scale ** (torch.arange(length) - length // 2).to(x.dtype).div(scale_base)[:, None]
    angle = torch.arange(length)[:, None] / theta ** (torch.arange(dim // 2, dtype=x.dtype) / (dim // 2))
    scale = 1 / scale if downscale else scale
    sin, cos = ((wave * scale).repeat_interleave(2, 1) for wave in (angle.sin(), angle.cos()))
    every_two = torch.stack((-x[:, 1::2], x[:, ::2]), -1).flatten(-2)
    return x * cos + every_two * sin


@settings(max_examples=10)
@given(half=st.integers(1, 16), scale_base=st.floats(5, 600), gamma=st.floats(0.1, 2), seed=st.integers(0, 99))
def test_xpos_equals_torchscale(half: int, scale_base: float, gamma: float, seed: int) -> None:
    pos = encoding("xpos", n_head=1, head_dim=2 * half, scale_base=scale_base, gamma=gamma)
    q, k = normal(2, 1, 40, 1, 2 * half, seed=seed)
    at = torch.arange(40)[None]
    pairs = torch.arange(2 * half).view(2, half).T.flatten()  # halves -> neighbours
    expected = [torchscale(x[0, :, 0, pairs], down, 10000.0, scale_base, gamma) for x, down in ((q, False), (k, True))]
    torch.testing.assert_close(logits(pos, q, k, at, at)[0], expected[0] @ expected[1].T, rtol=1e-9, atol=1e-9)


def test_xpos_does_not_overflow_up_to_its_last_position() -> None:
    pos = encoding("xpos")
    last = pos.max_length
    assert last == int(60 * 512 / math.log(1.4 / 0.4))
    q, k = normal(1, 2, 4, 8).float(), normal(1, 2, 4, 8, seed=1).float()
    near, far = torch.tensor([[0, 30]]), torch.tensor([[last - 31, last - 1]])
    torch.testing.assert_close(logits(pos, q, k, far, far), logits(pos, q, k, near, near), rtol=1e-4, atol=1e-4)
    half = (x.bfloat16() for x in (q, k))
    assert logits(pos, *half, far, far).isfinite().all()
    with pytest.raises(ValueError, match=f"pos=xpos supports {last} tokens, given {last + 1}"):
        random_model(tiny(arm(pos="xpos")))(torch.zeros(1, last + 1, dtype=torch.long))


def test_xpos_rejects_a_context_that_would_overflow() -> None:
    message = rejected(lambda: encoding("xpos", context=5000, scale_base=100.0))
    assert "pos.scale_base=100 supports 4789 tokens" in message and "model.context=5000" in message
    use = float(message.rpartition("pos.scale_base=")[2])
    assert encoding("xpos", context=5000, scale_base=use).max_length >= 5000
