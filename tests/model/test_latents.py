"""Multi-head latent attention: two ways to compute it, and the size of its cache."""

import pytest
import torch
from helpers_attention import LAYERS, config_of
from helpers_model import CONTEXT, VOCAB, arm, options, random_model, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from gptx.geometry.visibility import Where
from gptx.model.build import build
from gptx.model.cost import cost
from gptx.model.kv_cache import KVCache


@settings(max_examples=10)
@given(data=st.data())
def test_absorbed_and_expanded_latents_are_equal(data: st.DataObject) -> None:
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    n_head, dim = draw(1, 4), 2 * draw(1, 4)
    keys = {"kv_rank": draw(0, 9), "q_rank": draw(0, 9), "rope_dim": 2 * draw(0, 3), "bias": data.draw(st.booleans())}
    sizes = {"n_head": n_head, "d_model": n_head * dim, "bias": True}
    pos, window = data.draw(st.sampled_from(options("pos"))), data.draw(st.sampled_from(["full", "sliding"]))
    model = random_model(config_of("mla", sizes, arm(pos=pos, window=window), softcap=draw(0, 2), **keys))
    view = model.views(dict.fromkeys(model.windows, Where.after(CONTEXT - 3, CONTEXT - 3, 3, "cpu")))[0]
    attention = model.blocks[0].attention
    rank, rope = attention.kv_norm.weight.shape[0], attention.rotary_dim
    random = lambda *shape: torch.randn(2, *shape, dtype=torch.float64)  # noqa: E731
    given_ = random(3, n_head, dim), random(3, n_head, rope), random(CONTEXT, rank), random(CONTEXT, 1, rope)
    torch.testing.assert_close(
        attention.absorbed(*given_, view), attention.expanded(*given_, view), rtol=1e-10, atol=1e-10
    )


def test_mla_absorbs_latents_where_that_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = random_model(config_of("mla")), rows(1, CONTEXT)
    taken: list[str] = []
    for name in ("absorbed", "expanded"):
        method = getattr(type(model.blocks[0].attention), name)
        monkeypatch.setattr(
            type(model.blocks[0].attention),
            name,
            lambda *args, method=method, name=name: (taken.append(name), method(*args))[1],
        )
    cache = KVCache(CONTEXT)
    for count, expected in ((3, "expanded"), (1, "absorbed"), (3, "absorbed"), (4, "expanded")):
        at = cache.length
        model(tokens[:, at : at + count], context=cache)
        assert taken[-LAYERS:] == [expected] * LAYERS
    model(tokens)
    assert taken[-LAYERS:] == ["expanded"] * LAYERS


@pytest.mark.parametrize("n_head", [4, 8])
def test_mla_cache_size(n_head: int) -> None:
    """In the paper: 4 D + D/2 numbers per token and layer; multi-head attention caches 2 H D."""
    sizes = {"n_head": n_head, "d_model": 8 * n_head, "bias": False}
    latent, full = (cost(build(config_of(name, sizes), VOCAB), torch.float32) for name in ("mla", "mha"))
    assert latent.kv_bytes_per_token == 4 * LAYERS * 4.5 * 8
    assert latent.kv_bytes_per_token / full.kv_bytes_per_token == 4.5 / (2 * n_head)
