"""Dropout under strategy=tp: ranks drop different weights of their heads, and the same activations outside of them."""

import pytest
import torch
from helpers_model import window, yaml
from torch import Tensor

from gptx.config.instantiate import part
from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.pos.none import NoPE
from gptx.strategy.tp_sharding import OwnDropoutKernel

DRAWS = 200
SHAPE = ModelShape(n_layer=1, n_head=2, d_model=16, context=8, vocab_size=9, dropout=0.5, bias=False)
NONE = NoPE(SHAPE, 8, 2)


def kernel(name: str) -> Kernel:
    found: Kernel = part(yaml("kernel", name), SHAPE, frozenset())
    return found


def outputs(name: str, rank: int) -> tuple[Tensor, Tensor]:
    """Outputs (DRAWS, ...) of one rank's heads, the same on every rank, and random numbers drawn between them."""
    own = OwnDropoutKernel(SHAPE, kernel(name), rank, 2).train()
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 8, 2, 8)
    mask = own.mask(Where.rows(8), window("full"), NONE)
    torch.manual_seed(1)
    drawn = [(own(q, k, v, mask, Score(0.3)), torch.rand(3)) for _ in range(DRAWS)]
    return torch.stack([y for y, _ in drawn]), torch.stack([outside for _, outside in drawn])


@pytest.mark.parametrize("name", ["reference", "sdpa", "auto"])
def test_ranks_drop_independent_weights_and_keep_one_stream_outside(name: str) -> None:
    (first, outside), (second, outside_too), (again, _) = (outputs(name, rank) for rank in (0, 1, 0))
    assert torch.equal(outside, outside_too) and len(outside.unique()) == outside.numel()
    assert torch.equal(first, again), "a resumed run would differ"
    noise = [y - y.mean(0) for y in (first, second)]
    correlation = (noise[0] * noise[1]).mean() / (noise[0].std() * noise[1].std())
    assert abs(correlation) < 0.05
    ratio = (noise[0] + noise[1]).std() / (noise[0].var() + noise[1].var()).sqrt()
    assert ratio == pytest.approx(1, abs=0.03), "1.41 if both ranks drop the same weights"


def test_evaluation_uses_no_random_numbers() -> None:
    inner, state = kernel("reference").eval(), torch.get_rng_state()
    own, qkv = OwnDropoutKernel(SHAPE, inner, 1, 2).eval(), [torch.ones(1, 4, 2, 8)] * 3
    mask = own.mask(Where.rows(4), window("full"), NONE)
    assert torch.equal(own(*qkv, mask, Score(0.3)), inner(*qkv, mask, Score(0.3)))
    assert torch.equal(torch.get_rng_state(), state)
