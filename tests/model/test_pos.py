"""Positional encodings against their authors' formulas, and against full models of Hugging Face."""

import math
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers_model import (
    CONTEXT,
    VOCAB,
    arm,
    one_thread,  # noqa: F401 - a fixture
    options,
    random_model,
    randomise,
    rejected,
    rows,
    tiny,
)
from helpers_parity import LLAMA_ARM, from_llama, linear, same_logits, with_random_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gptx.config.instantiate import part
from gptx.geometry.model_shape import ModelShape
from gptx.model.build import build
from gptx.model.cost import attention_macs
from gptx.model.gpt import GPT
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window
from gptx.window.full import Full
from gptx.window.sliding import Sliding

ROPES = [option for option in options("pos") if option.startswith(("rope", "irope", "xpos"))]
BIASES = [option for option in options("pos") if option in ("alibi", "t5", "kerple", "fire")]
both_dtypes = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 2e-6)])


def encoding(
    option: str, n_head: int = 4, head_dim: int = 8, heads: int = 0, context: int = CONTEXT, **keys: Any
) -> PositionalEncoding:
    """One encoding in float64, as in its YAML file except for ``keys``."""
    shape = ModelShape(
        n_layer=1, n_head=n_head, d_model=n_head * head_dim, context=context, vocab_size=9, dropout=0.0, bias=False
    )
    cfg = tiny(arm(pos=option)).pos
    cfg.update(keys)
    found: PositionalEncoding = part(cfg, shape, head_dim, heads or n_head).double()
    return found


def frequencies(pos: PositionalEncoding, dim: int) -> Tensor:
    found: Tensor = pos.frequencies(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return found


def logits(pos: PositionalEncoding, q: Tensor, k: Tensor, q_pos: Tensor, k_pos: Tensor) -> Tensor:
    """(H, T, T') logits of q (1, T, H, R) at q_pos (1, T) for k (1, T', G, R) at k_pos (1, T')."""
    turned, _ = pos.rotate(q, k[:, :1], pos.table(q_pos))
    _, keys = pos.rotate(q[:, :1], k, pos.table(k_pos))
    found = torch.einsum("qhd,khd->hqk", turned[0], keys[0].repeat_interleave(q.shape[2] // k.shape[2], 1))
    if pos.biased:
        head = torch.arange(q.shape[2])[None, :, None, None]
        found = found + pos.bias(head, q_pos[:, None, :, None], k_pos[:, None, None, :])[0]
    return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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


def llama(hf_keys: dict[str, Any], dtype: torch.dtype, kind: str = "Llama", **extra: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_size=32,
        intermediate_size=64,
        vocab_size=VOCAB,
        rms_norm_eps=1e-5,
        rope_parameters=hf_keys,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **extra,
    )
    return with_random_weights(getattr(transformers, f"{kind}ForCausalLM")(config), dtype)


@both_dtypes
@pytest.mark.parametrize("option", PARAMETERS)
def test_llama_with_scaled_positions_equals_transformers(option: str, dtype: torch.dtype, tolerance: float) -> None:
    gptx_keys, hf_keys = scaled(option, 100.0, 4.0, CONTEXT // 2)
    hf = llama(hf_keys, dtype, max_position_embeddings=CONTEXT // 2)
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


def split_heads(name: str, our: str, t: dict[str, Tensor], n_head: int) -> dict[str, Tensor]:
    out = {}
    for kind in ("weight", "bias"):
        parts = t[f"{name}.{kind}"].unflatten(0, (n_head, 3, -1)).unbind(1)
        out |= {f"{our}.attention.{x}.{kind}": part.flatten(0, 1) for x, part in zip("qkv", parts, strict=True)}
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


# Different encodings on global layers


@dataclass(frozen=True)
class Alternating(Window):
    """A pattern of windows that starts with local layers."""

    size: int

    def at(self, layer: int, n_layer: int) -> Window:
        return Full() if layer % 2 else Sliding(self.size)

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        raise AssertionError("each layer has its own")


def alternating(pos: str, keys: dict[str, Any], pattern: type[Window] = Alternating) -> GPT:
    cfg = tiny(arm(**{**dict(LLAMA_ARM), "pos": pos}), d_model=32)
    cfg.window = {"_target_": f"{pattern.__module__}.{pattern.__qualname__}", "size": 5}
    cfg.ffn.ratio = 2.0
    cfg.pos.update(keys)
    return build(cfg, VOCAB)


def test_window_is_local_only_if_it_hides_by_distance() -> None:
    class Sinks(Full):
        """Hides distant tokens but has no reach, because the first tokens are always visible."""

        @property
        def local(self) -> bool:
            return True

    assert Sliding(3).local and not Full().local
    for option in ("rope_dual", "irope"):
        pos = encoding(option)
        assert pos.at(0, Sinks()) is pos.at(1, Sliding(3)) is pos and pos.at(0, Full()) is not pos


@both_dtypes
def test_smollm3_without_positions_on_global_layers_equals_transformers(dtype: torch.dtype, tolerance: float) -> None:
    hf = llama(
        {"rope_type": "default", "rope_theta": 100.0},
        dtype,
        "SmolLM3",
        no_rope_layers=[1, 0],
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"],
        attn_implementation="eager",
    )
    for option in ("irope", "rope"):
        model = alternating(option, {"theta": 100.0}).to(dtype).eval()
        model.load_state_dict(from_llama(hf.state_dict(), 2, True))
        if option == "irope":
            same_logits(model, hf, tolerance)
        else:
            with pytest.raises(AssertionError, match="not close"):
                same_logits(model, hf, 1e-3)


def test_two_bases_equal_gemma_3() -> None:
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

    reference = Gemma3RotaryEmbedding(Gemma3TextConfig(head_dim=8, num_hidden_layers=6))
    pos = encoding("rope_dual")
    for window, kind in ((Sliding(5), "sliding_attention"), (Full(), "full_attention")):
        expected = getattr(reference, f"{kind}_inv_freq")
        torch.testing.assert_close(frequencies(pos.at(0, window), 8).float(), expected, rtol=1e-6, atol=0)


def test_rope_dual_base_of_each_layer() -> None:
    model = alternating("rope_dual", {"theta": 50.0, "global_theta": 5000.0})
    assert [pos.theta for pos in model.layer_pos] == [50.0, 5000.0]
    assert len({id(pos) for pos in alternating("rope_dual", {}, Full5).layer_pos}) == 1, "layers share one table"


@dataclass(frozen=True)
class Full5(Full):
    size: int


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


# Biases


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


def bias_of(pos: PositionalEncoding, length: int) -> Tensor:
    """The bias (H, T, T) of all pairs, as a kernel computes it."""
    at, head = torch.arange(length), torch.arange(4)[None, :, None, None]
    found = pos.bias(head, at[None, None, :, None], at[None, None, None, :])[0]
    assert found.shape == (4, length, length)
    return found


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


def test_fire_cost_includes_its_products() -> None:
    costs = {}
    for width in (16, 32):
        cfg = tiny(arm(pos="fire"))
        cfg.pos.width = width
        costs[width] = attention_macs(build(cfg, VOCAB))
    pairs = (CONTEXT + 1) / 2  # visible keys of a token, on average
    assert costs[32] - costs[16] == pytest.approx(16 * 4 * pairs)


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


@pytest.mark.parametrize("option", [o for o in options("pos") if encoding(o).biased])
def test_biases_do_not_round_under_autocast(option: str) -> None:
    """In bf16, 1024 distances would be a few hundred."""
    pos, at = encoding(option, context=1024).float(), torch.arange(1024)
    head = torch.arange(4)[:, None, None]
    exact = pos.bias(head, at[None, -1:, None], at[None, None])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pos.bias(head, at[None, -1:, None], at[None, None]), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sinusoids_are_exact_at_large_positions(dtype: torch.dtype) -> None:
    pos, far = encoding("sinusoidal", scale=1.0), torch.tensor([[10**6]])
    found = pos.embed(torch.zeros(1, 1, 32, dtype=dtype), far)
    expected = pos.embed(torch.zeros(1, 1, 32, dtype=torch.float64), far)
    tolerance = 1e-6 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


# Declared properties and rejections


@pytest.mark.parametrize("option", [*ROPES, *BIASES])
@settings(max_examples=10)
@given(far=st.integers(1, 200), to=st.integers(0, 2000), shift=st.integers(10, 10_000), seed=st.integers(0, 99))
def test_relative_encodings_ignore_absolute_positions(option: str, far: int, to: int, shift: int, seed: int) -> None:
    pos = encoding(option, heads=2)
    randomise(pos, seed)
    q, k = normal(1, 1, 4, 8, seed=seed), normal(1, 1, 2, 8, seed=seed + 1)
    query_at, key_at = torch.tensor([[to + far]]), torch.tensor([[to]])
    expected = logits(pos, q, k, query_at, key_at)
    moved = (logits(pos, q, k, query_at + shift, key_at + shift) - expected).abs().max()
    if pos.relative:
        assert moved < 1e-7
    else:
        assert option == "fire" and moved > 1e-11
    assert (logits(pos, q, k, query_at, query_at) - expected).abs().max() > 1e-9, "logits depend on the distance"


@pytest.mark.parametrize(
    ("option", "keys", "wrong", "right"),
    [
        *((option, {"theta": 0.0}, "pos.theta=0: expected more than 0", "pos.theta=10000") for option in ROPES),
        ("rope_linear", {"factor": 0.5}, "pos.factor=0.5: expected at least 1", "pos.factor=4"),
        ("rope_ntk", {"factor": 0.5}, "pos.factor=0.5: expected at least 1", "pos.factor=4"),
        ("rope_yarn", {"factor": math.nan}, "pos.factor=nan: expected at least 1", "pos.factor=4"),
        ("rope_yarn", {"theta": 1.0}, "pos.theta=1: expected more than 1", "pos.theta=10000"),
        ("rope_yarn", {"original": -1}, "pos.original=-1: expected at least 0", "pos.original=12"),
        ("rope_yarn", {"beta_slow": 0.0}, "pos.beta_slow=0: expected more than 0", "pos.beta_slow=1"),
        ("rope_yarn", {"beta_fast": 0.5}, "pos.beta_fast=0.5: expected more than 1", "pos.beta_fast=32"),
        ("rope_llama3", {"original": -1}, "pos.original=-1: expected at least 0", "pos.original=12"),
        ("rope_llama3", {"low_freq_factor": -1.0}, "low_freq_factor=-1: expected at least 0", "low_freq_factor=1"),
        ("rope_llama3", {"high_freq_factor": 1.0}, "high_freq_factor=1: expected more than 1", "high_freq_factor=4"),
        ("rope_dual", {"global_theta": -1.0}, "pos.global_theta=-1: expected more than 0", "global_theta=1e+06"),
        ("xpos", {"scale_base": 0.0}, "pos.scale_base=0: expected more than 0", "pos.scale_base=512"),
        ("xpos", {"gamma": 0.0}, "pos.gamma=0: expected more than 0", "pos.gamma=0.4"),
        ("t5", {"buckets": 1}, "pos.buckets=1: expected at least 2", "pos.buckets=32"),
        ("t5", {"max_distance": 16}, "pos.max_distance=16: expected more than 16", "pos.max_distance=128"),
        ("fire", {"width": 0}, "pos.width=0: expected at least 1", "pos.width=32"),
        ("fire", {"c": 0.0}, "pos.c=0: expected more than 0", "pos.c=0.1"),
        ("fire", {"threshold": 0.0}, "pos.threshold=0: expected more than 0", "pos.threshold=0.25"),
    ],
)
def test_numbers_out_of_bounds_are_rejected(option: str, keys: dict[str, Any], wrong: str, right: str) -> None:
    message = rejected(lambda: encoding(option, **keys))
    assert wrong in message and message.endswith(f"such as {right.rpartition('=')[2]}")
    (key,) = keys
    encoding(option, **{key: type(keys[key])(float(right.rpartition("=")[2]))})


def test_kerple_has_two_forms() -> None:
    message = rejected(lambda: encoding("kerple", form="cubic"))
    assert message == "pos.form='cubic': expected log or power"


@pytest.mark.parametrize("option", [option for option in ROPES if option != "rope_partial"])
def test_rotary_encodings_reject_odd_heads_by_name(option: str) -> None:
    message = rejected(lambda: encoding(option, head_dim=3))
    assert f"pos={option} needs an even head_dim, given 3" in message and message.endswith("use model.d_model=16")


def test_ntk_rejects_a_single_frequency() -> None:
    message = rejected(lambda: encoding("rope_ntk", head_dim=2))
    assert "needs 4 or more rotated dims per head, given 2," in message
    encoding(re.findall(r"use pos=(rope_linear)", message)[0], head_dim=2)


def test_rotary_encodings_reject_heads_of_one_dim() -> None:
    assert "pos=rope_partial needs an even head_dim, given 1" in rejected(lambda: encoding("rope_partial", head_dim=1))
