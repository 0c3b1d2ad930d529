"""Encodings that add a bias to the logits, against their authors' formulas and full models of Hugging Face."""

import math
from typing import Any

import pytest
import torch
from helpers_model import CONTEXT, VOCAB, arm, options, random_model, randomise, rows, tiny
from helpers_parity import both_dtypes, linear, same_logits, split_heads, with_random_weights
from helpers_pos import BIASES, bias_of, encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gptx.model.build import build
from gptx.model.cost import attention_macs


@settings(max_examples=20)
@given(buckets=st.integers(2, 64), factor=st.floats(1.5, 40))
def test_t5_buckets_equal_transformers(buckets: int, factor: float) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(5000)
    far = max(buckets // 2 + 1, int(buckets * factor))
    pos = encoding("t5", buckets=buckets, max_distance=far)
    expected = T5Attention._relative_position_bucket(-distance, False, buckets, far)
    assert torch.equal(pos.bucket(distance), expected)
    assert expected.max() == buckets - 1


def test_t5_bias_equals_transformers() -> None:
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(
        d_model=32, num_heads=4, is_decoder=True, relative_attention_num_buckets=12, relative_attention_max_distance=30
    )
    reference = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).double()
    randomise(reference)
    pos = encoding("t5", buckets=12, max_distance=30)
    pos.embedding.load_state_dict(reference.relative_attention_bias.state_dict())
    assert torch.equal(bias_of(pos, 50).tril(), reference.compute_bias(50, 50)[0].tril())


@pytest.mark.parametrize("form", ["log", "power"])
def test_kerple_equals_the_formula_of_the_paper(form: str) -> None:
    pos = encoding("kerple", form=form)
    randomise(pos, std=1.0)
    found = bias_of(pos, 9)
    for h in range(4):
        r1, b = pos.a[h].exp().item(), pos.b[h].item()
        for q in range(9):
            for k in range(q + 1):
                if form == "log":
                    expected = -r1 * math.log(1 + math.exp(b) * abs(q - k))
                else:
                    expected = -r1 * abs(q - k) ** (2 / (1 + math.exp(-b)))
                assert math.isclose(found[h, q, k].item(), expected, abs_tol=1e-12)


@pytest.mark.parametrize("form", ["log", "power"])
def test_models_learn_both_forms_of_kerple(form: str) -> None:
    cfg = tiny(arm(pos="kerple"))
    cfg.pos.form = form
    model, tokens = random_model(cfg), rows(2, CONTEXT + 1)
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    for parameter in model.pos.parameters():
        assert parameter.grad.isfinite().all() and (parameter.grad.abs() > 1e-7).all()
    assert (bias_of(model.pos, 9).diff(dim=-1).tril(-1) >= 0).all(), "the further, the less"


def test_kerple_heads_start_different_and_depend_on_the_seed() -> None:
    first, same, other = (build_with_seed("kerple", seed) for seed in (0, 0, 1))
    assert torch.equal(first.a, same.a) and not torch.equal(first.a, other.a)
    assert len(first.a.unique()) == len(first.b.unique()) == 4


def build_with_seed(option: str, seed: int) -> Any:
    cfg = tiny(arm(pos=option))
    cfg.seed = seed
    return build(cfg, VOCAB).pos


def test_fire_equals_the_formula_of_the_paper() -> None:
    pos = encoding("fire", context=20, width=6, c=0.3, threshold=0.4)
    assert pos.threshold * pos.l_factor.exp() == 8 and (pos.c_factor == 0).all()
    randomise(pos)
    c, far = 0.3 * pos.c_factor.exp().item(), 8 * pos.l_factor.exp().item()
    found = bias_of(pos, 30)
    assert 2 < far < 28, "both sides of the threshold are seen"

    def psi(x: float) -> float:
        return math.log(c * x + 1)

    for q in range(30):
        for k in range(q + 1):
            share = psi(q - k) / psi(max(far, q))
            hidden = [max(0.0, share * w.item() + b.item()) for w, b in zip(pos.slope, pos.offset, strict=True)]
            for h in range(4):
                expected = sum(w.item() * y for w, y in zip(pos.out.weight[h], hidden, strict=True))
                assert math.isclose(found[h, q, k].item(), expected, abs_tol=1e-10)


@pytest.mark.parametrize(("shared", "functions"), [(True, 1), (False, 2)])
def test_fire_cost_includes_its_products(shared: bool, functions: int) -> None:
    costs = {}
    for width in (16, 32):
        cfg = tiny(arm(pos="fire"))
        cfg.pos.width, cfg.pos.shared = width, shared
        costs[width] = attention_macs(build(cfg, VOCAB))
    pairs = (CONTEXT + 1) / 2  # visible keys of a token, on average
    assert costs[32] - costs[16] == pytest.approx(functions * 16 * 4 * pairs)


@pytest.mark.parametrize("option", BIASES)
def test_biases_are_elementwise_and_finite(option: str) -> None:
    pos = encoding(option)
    randomise(pos)
    all_pairs = bias_of(pos, 20)
    some = pos.bias(torch.tensor([2, 0]), torch.tensor([17]), torch.tensor([4]))
    torch.testing.assert_close(some, all_pairs[[2, 0], 17, 4], rtol=1e-12, atol=0)
    at = torch.tensor([0, 1, 50, 10**6])
    found = pos.bias(torch.arange(4)[:, None, None], at[:, None], at)
    assert found.isfinite().all(), "also in the future, which a mask hides, and far away"
    parameters = list(pos.parameters())
    for gradient in torch.autograd.grad(found.sum(), parameters) if parameters else ():
        assert gradient.isfinite().all()


@pytest.mark.parametrize("option", [o for o in options("pos") if encoding(o).biased])
def test_biases_do_not_round_under_autocast(option: str) -> None:
    """In bf16, 1024 distances would be a few hundred."""
    pos, at = encoding(option, context=1024).float(), torch.arange(1024)
    head = torch.arange(4)[:, None, None]
    exact = pos.bias(head, at[None, -1:, None], at[None, None])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pos.bias(head, at[None, -1:, None], at[None, None]), exact, rtol=1e-6, atol=1e-6)


# Full models with ALiBi


@both_dtypes
def test_mpt_equals_transformers(dtype: torch.dtype, tolerance: float) -> None:
    from transformers import MptConfig, MptForCausalLM

    config = MptConfig(
        d_model=32, n_heads=4, n_layers=2, expansion_ratio=2, max_seq_len=CONTEXT, vocab_size=VOCAB, eos_token_id=0
    )
    hf = with_random_weights(MptForCausalLM(config), dtype)
    t = {key.removeprefix("transformer."): value for key, value in hf.state_dict().items()}
    state = {"embed.weight": t["wte.weight"]} | linear("norm_f", "norm", t)
    for layer in range(2):
        hf_layer, our = f"blocks.{layer}", f"blocks.{layer}"
        state |= linear(f"{hf_layer}.norm_1", f"{our}.norm1", t) | linear(f"{hf_layer}.norm_2", f"{our}.norm2", t)
        parts = t[f"{hf_layer}.attn.Wqkv.weight"].chunk(3)
        state |= {f"{our}.attention.{x}.weight": part for x, part in zip("qkv", parts, strict=True)}
        state |= linear(f"{hf_layer}.attn.out_proj", f"{our}.attention.out", t)
        state |= linear(f"{hf_layer}.ffn.up_proj", f"{our}.ffn.up", t)
        state |= linear(f"{hf_layer}.ffn.down_proj", f"{our}.ffn.out", t)
    assert_equal_to_alibi(hf, state, False, False, tolerance)


@both_dtypes
def test_bloom_equals_transformers(dtype: torch.dtype, tolerance: float) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    hf = with_random_weights(BloomForCausalLM(config), dtype)
    hf.transformer.word_embeddings_layernorm = nn.Identity()  # the only part that gptx does not have
    t = {key.removeprefix("transformer."): value for key, value in hf.state_dict().items()}
    state = {"embed.weight": t["word_embeddings.weight"]} | linear("ln_f", "norm", t)
    for layer in range(2):
        hf_layer, our = f"h.{layer}", f"blocks.{layer}"
        state |= linear(f"{hf_layer}.input_layernorm", f"{our}.norm1", t)
        state |= linear(f"{hf_layer}.post_attention_layernorm", f"{our}.norm2", t)
        state |= split_heads(f"{hf_layer}.self_attention.query_key_value", our, t, 4)
        state |= linear(f"{hf_layer}.self_attention.dense", f"{our}.attention.out", t)
        state |= linear(f"{hf_layer}.mlp.dense_h_to_4h", f"{our}.ffn.up", t)
        state |= linear(f"{hf_layer}.mlp.dense_4h_to_h", f"{our}.ffn.out", t)
    assert_equal_to_alibi(hf, state, True, True, tolerance)


def assert_equal_to_alibi(hf: nn.Module, state: dict[str, Tensor], bias: bool, tanh: bool, tolerance: float) -> None:
    for option in ("alibi", "none"):
        cfg = tiny(arm(attention="mha", pos=option, window="full", ffn="gelu", norm="layernorm"), d_model=32, bias=bias)
        cfg.ffn.update({"ratio": state["blocks.0.ffn.up.weight"].shape[0] / 32, "tanh": tanh})
        model = build(cfg, VOCAB).to(state["embed.weight"].dtype).eval()
        model.load_state_dict(state)
        if option == "alibi":
            same_logits(model, hf, tolerance)
        else:
            with pytest.raises(AssertionError, match="not close"):
                same_logits(model, hf, 1e-3)
