"""Attentions and encodings that depend on the depth of their layer."""

import math
from typing import Any

import pytest
import torch
from helpers_attention import DIM, GROUPED, HEADS, config_of, first_attention
from helpers_model import CONTEXT, VOCAB, arm, random_model, rows, tiny
from torch import Tensor

from gptx.attention.gqa import GQA
from gptx.geometry.visibility import Where
from gptx.model.build import build
from gptx.model.gpt import GPT


class Deep(GQA):
    """Remembers what it was told about its layer."""

    layer: tuple[int, int]

    def at(self, layer: int, n_layer: int) -> "Deep":
        self.layer = layer, n_layer
        return self


def test_every_attention_is_told_its_layer() -> None:
    cfg = config_of("gqa", {"n_layer": 3})
    cfg.attention._target_ = f"{__name__}.Deep"
    model = build(cfg, VOCAB)
    assert [block.attention.layer for block in model.blocks] == [(0, 3), (1, 3), (2, 3)]


# Differential attention


def initial_lambdas(**keys: Any) -> list[float]:
    model = build(config_of("differential", {"n_layer": 4}, **keys), VOCAB)
    return [block.attention.lambda_init for block in model.blocks]


def test_lambda_init_is_that_of_the_paper_unless_it_is_constant() -> None:
    """The paper counts layers from 1: 0.8 - 0.6 exp(-0.3 (l - 1))."""
    assert initial_lambdas() == pytest.approx([0.8 - 0.6 * math.exp(-0.3 * (layer - 1)) for layer in (1, 2, 3, 4)])
    assert initial_lambdas()[0] == pytest.approx(0.2)
    assert initial_lambdas(lambda_rise=0.0) == [0.8] * 4
    assert initial_lambdas(lambda_init=0.5, lambda_rise=0.1)[0] == pytest.approx(0.4)


@GROUPED
@pytest.mark.parametrize("layer", [0, 1])
def test_differential_equals_the_equation_of_the_paper(groups: int, layer: int) -> None:
    """Equations 1 to 3, with the norm of the authors' code, which has a weight."""
    model = random_model(config_of("differential", {"bias": False}, n_kv_head=groups), seed=1)
    attention, x = model.blocks[layer].attention, torch.randn(1, CONTEXT, 16, dtype=torch.float64)
    init = 0.8 - 0.6 * math.exp(-0.3 * layer)
    one, two = (attention.lambda_q1 @ attention.lambda_k1).exp(), (attention.lambda_q2 @ attention.lambda_k2).exp()
    q, k, v = ((x[0] @ layer.weight.T).unflatten(-1, (-1, DIM)) for layer in (attention.q, attention.k, attention.v))
    view = model.views(dict.fromkeys(model.windows, Where.rows(CONTEXT)))[0]
    q, k = (turned[0] for turned in view.rotate(q[None], k[None]))
    hidden = torch.full((CONTEXT, CONTEXT), float("-inf"), dtype=torch.float64).triu(1)

    def weights(query: int, key: int) -> Tensor:
        return torch.softmax(q[:, query] @ k[:, key].T / DIM**0.5 + hidden, dim=-1)

    per_key, outputs = HEADS // groups, []
    for pair in range(groups // 2):
        values = v[:, 2 * pair : 2 * pair + 2].flatten(1)  # (T, 2D)
        for i in range(per_key):
            first, second = 2 * pair * per_key + i, (2 * pair + 1) * per_key + i
            y = (weights(first, 2 * pair) - (one - two + init) * weights(second, 2 * pair + 1)) @ values
            y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * attention.pair_norm.weight
            outputs.append((1 - init) * y)
    expected = torch.cat(outputs, dim=-1) @ attention.out.weight.T
    torch.testing.assert_close(first_attention(model, x, attention)[0], expected, rtol=0, atol=1e-12)


# FIRE


def fire(shared: bool) -> GPT:
    cfg = tiny(arm(pos="fire"), n_layer=3)
    cfg.pos.shared = shared
    return build(cfg, VOCAB)


def test_fire_has_a_function_for_each_layer_unless_it_is_shared() -> None:
    own, shared = fire(False), fire(True)
    assert len({id(pos) for pos in own.layer_pos}) == 3 and len({id(pos) for pos in shared.layer_pos}) == 1
    counts = [sum(p.numel() for p in model.pos.parameters()) for model in (own, shared)]
    assert counts == [3 * (2 + 32 + 32 + 32 * 4), 2 + 32 + 32 + 32 * 4]
    first, second, third = own.layer_pos
    assert torch.equal(first.slope, shared.pos.slope), "the first layer starts like the shared function"
    assert not torch.equal(first.slope, second.slope) and not torch.equal(second.slope, third.slope)
    assert not torch.equal(second.out.weight, third.out.weight)


def test_equal_functions_in_all_layers_are_one_shared_function() -> None:
    own, shared, tokens = fire(False), fire(True), rows(2, CONTEXT)
    state = shared.state_dict()
    for name in [name for name in state if name.startswith("pos.")]:
        state |= {name.replace("pos.", f"pos.deeper.{i}."): state[name] for i in range(2)}
    own.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(own(tokens), shared(tokens))
        own.layer_pos[2].out.weight.mul_(-9)
        assert not torch.allclose(own(tokens), shared(tokens), rtol=0, atol=1e-6)
