"""Attention variants against the equations of their papers, and the limits in which they equal a simpler variant."""

import math

import pytest
import torch
from helpers_attention import DIM, GROUPED, GROUPS, HEADS, config_of, first_attention
from helpers_model import CONTEXT, VOCAB, arm, random_model, rows
from torch import Tensor, nn

from gptx.model.build import build
from gptx.model.gpt import GPT

# The papers' equations in plain loops


def heads(layer: nn.Linear, x: Tensor, dim: int) -> Tensor:
    """(T, heads, dim) of one row x (T, D)."""
    return (x @ layer.weight.T + layer.bias).unflatten(-1, (-1, dim))


@pytest.mark.parametrize(("groups", "gates"), [(HEADS, HEADS), (GROUPS, HEADS), (GROUPS, GROUPS)])
def test_forgetting_equals_the_equation_of_the_paper(groups: int, gates: int) -> None:
    """FoX: o_i = sum_j F_ij exp(q_i.k_j / sqrt d) v_j / sum_j F_ij exp(q_i.k_j / sqrt d), F_ij = prod of f_l for
    l = j+1..i, f_t = sigmoid(w_f x_t + b_f)."""
    model = random_model(config_of("forgetting", {"bias": True}, arm(pos="none"), n_kv_head=groups, n_gate=gates))
    attention, x = model.blocks[0].attention, torch.randn(1, CONTEXT, 16, dtype=torch.float64)
    q, k, v = (heads(layer, x[0], DIM) for layer in (attention.q, attention.k, attention.v))
    f = torch.sigmoid(heads(attention.forget, x[0], 1))[..., 0]  # (T, N)
    y = torch.zeros(CONTEXT, HEADS, DIM, dtype=torch.float64)
    for i in range(CONTEXT):
        for h in range(HEADS):
            g = h // (HEADS // groups)
            gate = h // (HEADS // gates)
            weights = [f[j + 1 : i + 1, gate].prod() * (q[i, h] @ k[j, g] / DIM**0.5).exp() for j in range(i + 1)]
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
    model = random_model(config_of("differential", {"bias": True}, n_kv_head=groups, lambda_init=0.0, lambda_rise=0.0))
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
    model = build(config_of("differential", {"d_model": 256}, lambda_init=0.6, lambda_rise=0.0), VOCAB)
    for block in model.blocks:
        assert block.attention.factor().item() == pytest.approx(0.6, abs=0.6)
        assert 0.07 < block.attention.lambda_q1.std() < 0.13
    first, second = (block.attention.lambda_k2 for block in model.blocks)
    assert not torch.equal(first, second)
