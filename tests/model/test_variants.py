"""Proofs (gptx/proofs) for combinations of attention x pos x window and of ffn x norm x placement, built from the YAML
files alone. The first tier combines each attention with every second encoding, and any two options of ffn, norm and
placement; the second (``-m full``) proves all combinations."""

import copy
import functools
import math
from collections.abc import Callable
from itertools import combinations, pairwise

import pytest
import torch
from helpers_model import (
    ALL,
    CONTEXT,
    FIRST,
    GROUPS,
    PAIRS,
    SIZE,
    VOCAB,
    Arm,
    arm,
    is_in_first_tier,
    model_of,
    name,
    options,
    product,
    random_model,
    randomise,
    rows,
    tiny,
    tiny_option,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from proving import prove
from tiers import every_option, some
from torch import Tensor

from gptx.config.instantiate import part
from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where, visible
from gptx.model.build import build
from gptx.model.kv_cache import KVCache
from gptx.pos.base import PositionalEncoding
from gptx.pos.none import NoPE
from gptx.proofs.causality import influence
from gptx.proofs.decoding import decode, decoding_sizes, packed_documents_equal_separate_rows
from gptx.proofs.kernels import every_kernel_equals_the_reference, kernels
from gptx.window.base import Window


def test_first_variants_exist() -> None:
    for group, names in FIRST.items():
        assert names <= set(options(group)), group


def test_windows_hide_part_of_a_row() -> None:
    for option in set(options("window")) - {"full"}:
        assert not all(window.covers(CONTEXT) for window in model_of(arm(window=option)).windows), option


def test_every_option_is_proven_in_the_first_tier() -> None:
    first = [arm for arm in ALL if is_in_first_tier(arm)]
    for group in ("attention", "pos", "window", "ffn", "placement", "norm"):
        assert {option for arm in first for axis, option in arm if axis == group} == set(options(group))


def test_any_two_options_of_different_axes_are_combined() -> None:
    for groups in (("attention", "pos", "window"), ("ffn", "placement", "norm")):
        for pair in combinations(groups, 2):
            combined = {tuple(choice for choice in arm if choice[0] in pair) for arm in PAIRS}
            assert set(product(*pair)) <= combined


def passes_all_proofs(arm: Arm, record_property: Callable[[str, object], None]) -> None:
    model = random_model(tiny(arm, bias=True, d_model=32))
    prove(model)
    record_property("proven", "-".join(group for group, _ in arm))
    record_property("kernels", len(kernels(model)))


COMBINATIONS = [(arm,) for arm in ALL]


@pytest.mark.parametrize("arm", some(COMBINATIONS, *((arm,) for arm in ALL if is_in_first_tier(arm))), ids=name)
def test_proofs_of_combinations(arm: Arm, record_property: Callable[[str, object], None]) -> None:
    passes_all_proofs(arm, record_property)


@settings(max_examples=10)
@given(data=st.data())
def test_kernels_cache_and_packing_for_random_sizes_and_options(data: st.DataObject) -> None:
    """Widths, heads, groups, layers, window sizes and options are drawn at random."""
    draw = data.draw
    groups = [group for group in GROUPS if group != "kernel"]
    chosen = tuple((group, draw(st.sampled_from(options(group)), label=group)) for group in groups)
    n_head, half = draw(st.sampled_from([1, 2, 4, 6]), label="n_head"), draw(st.integers(1, 4), label="half a head")
    sizes = {"n_head": n_head, "d_model": 2 * half * n_head, "n_layer": draw(st.integers(2, 3), label="n_layer")}
    cfg = tiny(chosen, **sizes, bias=draw(st.booleans(), label="bias"), tie=draw(st.booleans(), label="tie"))
    for key, kind in (("n_kv_head", st.sampled_from([1, 2, 3, 4, 6])), ("softcap", st.sampled_from([0.0, 2.0]))):
        if key in cfg.attention:
            cfg.attention[key] = draw(kind, label=key)
    if "qk_norm" in cfg.attention:
        cfg.attention.qk_norm = draw(st.booleans(), label="qk_norm")
    for key, value in cfg.window.items():
        if type(value) is int:
            cfg.window[key] = draw(st.integers(1, 8), label=key)
    try:
        model = build(cfg, VOCAB)
    except ConfigError as error:
        assert "\n" not in str(error) and len(str(error)) > 20, "rejected in one line"
        assume(False)
    randomise(model, draw(st.integers(0, 99), label="seed"))
    model.double().eval()
    length, size = decoding_sizes(model)
    cuts = draw(st.sets(st.integers(1, length - 1), max_size=6), label="cuts")
    chunks = [b - a for a, b in pairwise([0, *sorted(cuts), length])]
    tokens = rows(2, length)
    with torch.no_grad():
        torch.testing.assert_close(decode(model, tokens, chunks, size)[0], model(tokens), rtol=0, atol=1e-9)
    for proof in (every_kernel_equals_the_reference, packed_documents_equal_separate_rows):
        proof(model, rows(2, CONTEXT + 1))


# Compilation

_COUNT = max(len(options(group)) for group in GROUPS)
# Every option occurs in one of these.
SINGLES = [tuple((g, options(g)[i % len(options(g))]) for g in GROUPS if g != "kernel") for i in range(_COUNT)]


def compiles_to_one_graph(arm: Arm) -> None:
    """Compiled without a graph break, the model returns the same loss."""
    model, tokens = random_model(tiny(arm, bias=True, d_model=32)), rows(2, CONTEXT + 1)
    x, y = tokens[:, :-1], tokens[:, 1:]
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), model(x, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arm", SINGLES, ids=name)
def test_every_option_compiles_to_one_graph(arm: Arm) -> None:
    compiles_to_one_graph(arm)


@pytest.mark.full
@pytest.mark.parametrize("arm", PAIRS, ids=name)
def test_pairs_compile_to_one_graph(arm: Arm) -> None:
    compiles_to_one_graph(arm)


# Behaviour of some variants


def test_cache_rejects_more_tokens_than_its_size() -> None:
    for window in ("full", "sliding"):  # a ring buffer shorter than the window's reach would overwrite visible tokens
        model = model_of(arm(pos="rope", window=window))
        size = SIZE - 1
        with pytest.raises(ValueError, match=f"holds {size} tokens, given {size + 1}"):
            decode(model, rows(1, SIZE), [1] * SIZE, size)


def test_sliding_window_limits_influence_to_the_sum_of_its_reaches() -> None:
    felt = influence(model_of(arm(window="sliding")), rows(1, CONTEXT))
    distance = torch.arange(CONTEXT)[:, None] - torch.arange(CONTEXT)
    assert (felt[(distance >= 0) & (distance <= 2 * (SIZE - 1))] > 0).all()
    assert (felt[distance > 2 * (SIZE - 1)] == 0).sum() == 6, "3 + 2 + 1 pairs of the past"


@pytest.mark.parametrize(("pos", "window"), every_option(options("pos"), options("window")))
def test_one_layer_without_an_encoding_ignores_the_order_of_tokens(pos: str, window: str) -> None:
    """In a model of one layer, only an encoding distinguishes the order of visible tokens."""
    model, row = random_model(tiny(arm(pos=pos, window=window), n_layer=1)), rows(1, CONTEXT)
    seen = visible(Where.rows(CONTEXT), model.windows[0].allows)[0, -1]
    a, b = seen.nonzero().flatten().tolist()[-3:-1] if seen.sum() > 2 else (CONTEXT - 2, CONTEXT - 1)
    swapped = row.clone()
    swapped[0, [a, b]] = row[0, [b, a]]
    with torch.no_grad():
        difference = (model(swapped)[0, -1] - model(row)[0, -1]).abs().max()
    if b < CONTEXT - 1 and isinstance(model.layer_pos[0], NoPE):
        assert difference < 1e-12
    else:
        assert difference > 1e-6


# Windows


def windows_of(option: str) -> list[Window]:
    window = part(tiny_option("window", option))
    return [window.at(layer, 4) for layer in range(4)]


@pytest.mark.parametrize("option", options("window"))
@settings(max_examples=20)
@given(q=st.integers(0, 2000), k=st.integers(0, 2000))
def test_window_hides_future_padding_and_tokens_beyond_its_reach(option: str, q: int, k: int) -> None:
    for window in windows_of(option):
        see = visible(Where(torch.tensor([[q]]), torch.tensor([[k, q, -1]])), window.allows)[0, 0]
        assert see.dtype == torch.bool
        assert see[1], "a token sees itself"
        assert not see[2], "an empty slot is never seen"
        if k > q:
            assert not see[0], "the future is seen"
        if window.reach is not None and q - k >= window.reach:
            assert not see[0], "a token beyond the reach is seen"


@pytest.mark.parametrize("option", options("window"))
@settings(max_examples=10)
@given(length=st.integers(1, 40))
def test_window_that_covers_a_row_equals_causal_attention(option: str, length: int) -> None:
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for window in windows_of(option):
        seen = visible(Where.rows(length), window.allows)[0]
        assert not (seen & ~causal).any()
        if window.covers(length):
            assert torch.equal(seen, causal)
    again = windows_of(option)
    assert again == windows_of(option), "equal windows are not equal: layers would not share a mask"
    assert [hash(window) for window in again] == [hash(window) for window in windows_of(option)]


@settings(max_examples=20)
@given(size=st.integers(1, 50), q=st.integers(0, 200), k=st.integers(0, 200), length=st.integers(1, 60))
def test_sliding_window_sees_its_size_in_tokens(size: int, q: int, k: int, length: int) -> None:
    cfg = tiny(arm(window="sliding")).window
    cfg.size = size
    window = part(cfg)
    seen = visible(Where(torch.tensor([[q]]), torch.tensor([[k]])), window.allows)
    assert seen.item() == (0 <= q - k < size)
    counts = visible(Where.rows(length), window.allows)[0].sum(1)
    assert counts.tolist() == [min(size, t + 1) for t in range(length)]
    assert (window.reach, window.covers(length)) == (size, length <= size)


@settings(max_examples=13)
@given(size=st.integers(1, 12), reach=st.none() | st.integers(1, 20), chunks=st.lists(st.integers(1, 9), max_size=9))
def test_cache_returns_the_newest_tokens_in_order(size: int, reach: int | None, chunks: list[int]) -> None:
    """The cached value of each token is its position."""

    class Back(Window):
        @property
        def reach(self) -> int | None:
            return reach

        def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
            raise AssertionError("a cache does not call allows")

    cache, window, slots = KVCache(size), Back(), min(size, reach or size)
    for count in chunks:
        if slots != reach and cache.length + count > size:
            with pytest.raises(ValueError, match=f"holds {size} tokens"):
                cache.keeper(0, window)(torch.zeros(1, count))
            return
        cached = torch.arange(cache.length - cache.cached(window), cache.length)[None]
        new = torch.arange(cache.length, cache.length + count)[None]
        (both,) = cache.keeper(0, window)(new)
        assert torch.equal(both, torch.cat((cached, new), 1))
        cache.length += count
        assert cache.cached(window) == min(cache.length, slots)
    assert cache.nbytes() == (8 * slots if chunks else 0)


# Encodings


@functools.cache
def encoding(option: str, n_head: int = 4, head_dim: int = 8) -> PositionalEncoding:
    """An encoding in a local layer, where every encoding has an effect; tests must not change it."""
    shape = ModelShape(
        n_layer=1, n_head=n_head, d_model=n_head * head_dim, context=CONTEXT, vocab_size=VOCAB, dropout=0.0, bias=False
    )
    found: PositionalEncoding = part(tiny_option("pos", option), shape, head_dim, n_head)
    return found.at(0, part(tiny_option("window", "sliding")))


def logit(pos: PositionalEncoding, q: Tensor, k: Tensor, at: int, to: int) -> Tensor:
    """(H,) logits of one query at position ``at`` for one key at position ``to``; q, k (1, 1, H, R)."""
    key_at, query_at = torch.tensor([[to]]), torch.tensor([[at]])
    product = (pos.rotate(q, k, pos.table(query_at))[0] * pos.rotate(q, k, pos.table(key_at))[1]).sum(-1)[0, 0]
    return product + pos.bias(torch.arange(q.shape[2]), query_at[0], key_at[0]) if pos.biased else product


@pytest.mark.parametrize("option", [option for option in options("pos") if encoding(option).relative])
@settings(max_examples=16)
@given(far=st.integers(0, 300), to=st.integers(0, 5000), shift=st.integers(1, 100_000), seed=st.integers(0, 99))
def test_relative_encodings_depend_on_the_distance_only(option: str, far: int, to: int, shift: int, seed: int) -> None:
    pos = encoding(option)
    assume(pos.max_length is None or to + far + shift < pos.max_length)
    q, k = torch.randn(2, 1, 1, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = logit(pos, q, k, to + far, to)
    torch.testing.assert_close(logit(pos, q, k, to + far + shift, to + shift), expected, rtol=0, atol=1e-8)
    if option != "none":
        one, two = logit(pos, q, k, to + 1, to), logit(pos, q, k, to + 2, to)
        assert (one - two).abs().max() > 1e-6, "logits are equal at two distances"


@settings(max_examples=16)
@given(at=st.integers(0, 100_000), seed=st.integers(0, 99))
def test_rope_is_a_rotation_of_each_pair(at: int, seed: int) -> None:
    pos = encoding("rope")
    x = torch.randn(1, 1, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    turned, key = pos.rotate(x, x, pos.table(torch.tensor([[at]])))
    assert torch.equal(turned, key)
    pairs, after = torch.complex(*x.chunk(2, -1)), torch.complex(*turned.chunk(2, -1))
    angles = at * 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    torch.testing.assert_close(after, pairs * torch.polar(torch.ones(4, dtype=torch.float64), angles))
    if at == 0:
        assert torch.equal(turned, x)


def test_alibi_slopes_equal_those_of_the_paper() -> None:
    pos = encoding("alibi", n_head=8)
    for head, slope in enumerate([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]):
        assert pos.bias(torch.tensor(head), torch.tensor(9), torch.tensor(2)).item() == -7 * slope
    pos = encoding("alibi", n_head=16)
    first = pos.bias(torch.tensor(0), torch.tensor(1), torch.tensor(0)).item()
    assert math.isclose(first, -(2**-0.5), rel_tol=1e-6), "for 16 heads, 2^(-1/2) is the first and the ratio"


@settings(max_examples=10)
@given(at=st.integers(0, 50_000), theta=st.floats(10, 1e6), scale=st.floats(0.01, 2))
def test_sinusoidal_equals_the_formula_of_the_paper(at: int, theta: float, scale: float) -> None:
    cfg = tiny(arm(pos="sinusoidal"))
    cfg.pos.theta, cfg.pos.scale = theta, scale
    pos = build(cfg, VOCAB).pos
    x = torch.zeros(1, 1, 16, dtype=torch.float64)
    for i, found in enumerate(pos.embed(x, torch.tensor([[at]]))[0, 0].tolist()):
        angle = at / theta ** ((i - i % 2) / 16)
        assert math.isclose(found, scale * (math.cos(angle) if i % 2 else math.sin(angle)), abs_tol=1e-9)


def test_learned_positions_are_looked_up() -> None:
    pos = encoding("learned")
    x = torch.randn(2, CONTEXT, 32, generator=torch.Generator().manual_seed(0))
    at = torch.arange(CONTEXT).flip(0)[None]
    assert torch.equal(pos.embed(x, at), x + pos.embedding.weight.flip(0))


@pytest.mark.parametrize("option", options("pos"))
def test_encodings_preserve_shape_and_dtype(option: str) -> None:
    pos, at = copy.deepcopy(encoding(option)), torch.arange(3)[None]
    for dtype in (torch.float32, torch.bfloat16):
        x, heads = torch.ones(2, 3, 32, dtype=dtype), torch.ones(2, 3, 4, 8, dtype=dtype)
        assert pos.to(dtype).embed(x, at).dtype == dtype and pos.embed(x, at).shape == x.shape
        for turned in pos.rotate(heads, heads, pos.table(at)):
            assert (turned.dtype, turned.shape) == (dtype, heads.shape)
