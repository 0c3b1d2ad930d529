"""Forgetting attention: its number of gates, and norms with a weight for each head."""

import pytest
import torch
from composed import composed
from helpers_attention import DIM, GROUPS, HEADS, config_of, first_attention
from helpers_model import CONTEXT, VOCAB, random_model, rejected

from gptx.config.identity import identity
from gptx.model.build import build


@pytest.mark.parametrize(("gates", "expected"), [(HEADS, True), (GROUPS, True), (1, False), (3, False)])
def test_gates_are_those_of_query_or_of_key_heads(gates: int, expected: bool) -> None:
    cfg = config_of("forgetting", n_kv_head=GROUPS, n_gate=gates)
    if expected:
        assert build(cfg, VOCAB).blocks[0].attention.forget.out_features == gates
    else:
        message = rejected(build, cfg, VOCAB)
        assert f"attention.n_gate={gates}: expected model.n_head={HEADS}" in message
        assert f"attention.n_kv_head={GROUPS}" in message


def test_equal_gates_of_a_group_are_one_gate_of_its_key_head() -> None:
    each, one = (
        random_model(config_of("forgetting", {"bias": True}, n_kv_head=GROUPS, n_gate=n)) for n in (HEADS, GROUPS)
    )
    state = one.state_dict()
    repeated = {
        name: weight.repeat_interleave(HEADS // GROUPS, 0) if ".forget." in name else weight
        for name, weight in state.items()
    }
    each.load_state_dict(repeated)
    x = torch.randn(2, CONTEXT, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(first_attention(each, x), first_attention(one, x), rtol=0, atol=1e-12)
        each.blocks[0].attention.forget.bias[0] += 3
        assert not torch.allclose(first_attention(each, x), first_attention(one, x), rtol=0, atol=1e-6)


def test_norms_have_a_weight_for_each_head() -> None:
    """The authors' GroupNorm: heads are normalised separately, and (H * D) weights multiply the result."""
    cfg = config_of("forgetting", {"bias": True}, n_kv_head=GROUPS, qk_norm=True, norm_per_head=True)
    start = build(cfg, VOCAB).blocks[0].attention
    assert torch.equal(start.q_norm.scale.weight, torch.ones(HEADS * DIM))
    attention, x = random_model(cfg).blocks[0].attention, torch.randn(2, 3, HEADS, DIM, dtype=torch.float64)
    for norm, heads in ((attention.q_norm, x), (attention.k_norm, x[:, :, :GROUPS])):
        flat = heads.flatten(2) * norm.scale.weight
        sizes = (heads.square().mean(-1) + 1e-6).sqrt()
        expected = torch.stack(
            [flat[..., h * DIM : (h + 1) * DIM] / sizes[..., h, None] for h in range(heads.shape[2])], dim=2
        )
        torch.testing.assert_close(norm(heads), expected, rtol=0, atol=1e-12)


def test_weights_for_each_head_need_norms() -> None:
    assert "use attention.qk_norm=true" in rejected(build, config_of("forgetting", norm_per_head=True), VOCAB)


def test_gates_count_in_the_identity_only_where_they_change_the_result() -> None:
    """The two names are those of the code that had no such keys and one gate for each key head."""

    def name(*keys: str) -> str:
        return identity(composed("attention=forgetting", *(f"attention.{key}" for key in keys)), "corpus")

    assert name() == name("n_gate=4") == "051412a2f1"
    assert name("n_kv_head=2", "n_gate=2") == "a3108d1e12"
    assert len({name(), name("n_kv_head=2"), name("n_kv_head=2", "n_gate=2")}) == 3
