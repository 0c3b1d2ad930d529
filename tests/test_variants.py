"""Every attention x pos x window on disk, and every ffn, norm and kernel: proofs in float64, from the YAML alone."""

import math
from itertools import pairwise

import pytest
import torch
from helpers_model import (
    ARMS,
    COMBINATIONS,
    CONTEXT,
    FIRST,
    SIZE,
    VOCAB,
    Arm,
    arm,
    model_of,
    name,
    one_thread,  # noqa: F401 - a fixture
    options,
    random_model,
    rows,
    tiny,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptx.assembly import build
from gptx.cache import Cache
from gptx.kernel.base import Kernel
from gptx.model import GPT
from gptx.parts import part
from gptx.pos.base import PositionalEncoding
from gptx.shape import Shape
from gptx.view import View
from gptx.where import Where, visible
from gptx.window.base import Window

every_arm = pytest.mark.parametrize("arm", ARMS, ids=name)
every_combination = pytest.mark.parametrize("arm", COMBINATIONS, ids=name)
with_and_without_bias = pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
LONG = 3 * CONTEXT


def test_what_the_project_began_with_is_on_disk() -> None:
    for group, names in FIRST.items():
        assert names <= set(options(group)), group


def test_windows_are_small_enough_here_to_hide_something() -> None:
    for option in options("window"):
        window = part(tiny(arm(window=option)).window)
        assert window.reach is None or 2 * (window.reach - 1) < CONTEXT - 1


@every_arm
@with_and_without_bias
def test_the_future_never_changes_the_past(arm: Arm, bias: bool) -> None:
    model, row = model_of(arm, bias), rows(1, CONTEXT)
    later = torch.ones(CONTEXT, CONTEXT, dtype=torch.long).triu(1)
    changed = (row + later) % VOCAB  # row t of the batch: other tokens after t
    with torch.no_grad():
        logits, other = model(row)[0], model(changed)
    for t in range(CONTEXT - 1):
        torch.testing.assert_close(other[t, : t + 1], logits[: t + 1], rtol=0, atol=1e-12)
        assert (other[t, t + 1] - logits[t + 1]).abs().max() > 1e-3, "the change was not even seen by itself"


def influence(model: GPT, row: Tensor) -> Tensor:
    """(T, T): how strongly the embedding of token k moves the logits at q."""
    length = row.shape[1]
    seen: list[Tensor] = []
    hook = model.embed.register_forward_hook(lambda module, given, out: seen.append(out))
    logits = model(row.expand(length, -1))
    hook.remove()
    weights = torch.randn(VOCAB, dtype=logits.dtype, generator=torch.Generator().manual_seed(1))
    score = (logits[torch.arange(length), torch.arange(length)] @ weights).sum()
    return torch.autograd.grad(score, seen[0])[0].norm(dim=-1)


@every_arm
@with_and_without_bias
def test_influence_goes_exactly_as_far_as_the_windows_let_it(arm: Arm, bias: bool) -> None:
    model = model_of(arm, bias)
    felt = influence(model, rows(1, CONTEXT))
    expected = torch.eye(CONTEXT)
    for window in model.windows:
        expected = visible(Where.rows(CONTEXT), window.allows)[0].float() @ expected
    assert torch.equal(felt > 0, expected > 0)
    reaches = [window.reach for window in model.windows]
    bound = sum(reach - 1 for reach in reaches if reach is not None) if None not in reaches else CONTEXT
    distance = torch.arange(CONTEXT)[:, None] - torch.arange(CONTEXT)
    assert (felt[distance > bound] == 0).all()
    if "sliding" in name(arm):
        assert bound == 2 * (SIZE - 1)
        assert (felt[(distance >= 0) & (distance <= bound)] > 0).all()
        assert (felt[distance > bound] == 0).sum() == 6, "3 + 2 + 1 pairs lie further apart than the windows reach"


@every_arm
@with_and_without_bias
def test_the_gradient_reaches_every_parameter(arm: Arm, bias: bool) -> None:
    model, row = model_of(arm, bias), rows(4, CONTEXT + 1)
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(model(row[:, :-1], row[:, 1:]), list(named.values()))
    probe = torch.ones(1, CONTEXT, 1, model.blocks[0].attention.rotary_dim, dtype=torch.float64)
    turns = not torch.equal(probe, model.pos.rotate(probe, probe, model.pos.table(torch.arange(CONTEXT)[None]))[1])
    for key, gradient in zip(named, gradients, strict=True):
        assert gradient.isfinite().all(), key
        if key.endswith("attention.k.bias") and not turns:
            # The same number on all logits of a query: softmax does not see it, so its gradient is zero in theory.
            assert gradient.abs().max() < 1e-12, key
        else:
            assert gradient.abs().max() > 1e-6, key


def decode(model: GPT, tokens: Tensor, chunks: list[int], size: int) -> tuple[Tensor, Cache]:
    """Logits of ``tokens`` given chunk by chunk."""
    cache = Cache(size)
    with torch.no_grad():
        logits = torch.cat([model(chunk, cache=cache) for chunk in tokens.split(chunks, dim=1)], dim=1)
    return logits, cache


def room(model: GPT) -> tuple[int, int]:
    """How many tokens to decode, and the cache for them: past the end of every ring wherever there is one."""
    length = LONG if model.pos.max_length is None else CONTEXT
    bounded = all(window.reach is not None for window in model.windows)
    return length, CONTEXT if bounded else length


@every_arm
@with_and_without_bias
def test_decoding_token_by_token_equals_the_full_forward(arm: Arm, bias: bool) -> None:
    model = model_of(arm, bias)
    length, size = room(model)
    tokens = rows(2, length)
    logits, cache = decode(model, tokens, [1] * length, size)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(tokens), rtol=0, atol=1e-10)
    assert cache.length == length
    for layer, window in enumerate(model.windows):
        expected = size if window.reach is None else min(size, window.reach)
        assert all(ring.shape[1] == expected for ring in cache.rings[layer])


@every_arm
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_decoding_in_any_chunks_equals_the_full_forward(arm: Arm, data: st.DataObject) -> None:
    model = model_of(arm, True)
    length, size = room(model)
    cuts = data.draw(st.sets(st.integers(1, length - 1), max_size=6))
    chunks = [b - a for a, b in pairwise([0, *sorted(cuts), length])]
    tokens = rows(2, length, data.draw(st.integers(0, 99)))
    with torch.no_grad():
        torch.testing.assert_close(decode(model, tokens, chunks, size)[0], model(tokens), rtol=0, atol=1e-10)


def test_a_cache_that_is_too_small_refuses() -> None:
    for window in ("full", "sliding"):  # a ring shorter than the window's reach cannot go round either
        model = model_of(arm(pos="rope", window=window))
        size = SIZE - 1
        with pytest.raises(ValueError, match=f"holds {size} tokens, given {size + 1}"):
            decode(model, rows(1, SIZE), [1] * SIZE, size)


@every_combination
@pytest.mark.parametrize("kernel", [k for k in options("kernel") if k != "reference"])
def test_every_kernel_equals_the_reference(arm: Arm, kernel: str) -> None:
    slow = random_model(tiny((*arm, ("kernel", "reference"))))
    fast = random_model(tiny((*arm, ("kernel", kernel))))
    length, size = room(slow)
    row = rows(2, min(length, CONTEXT) + 1)
    for model in (slow, fast):
        model(row[:, :-1], row[:, 1:]).backward()
    for (key, a), b in zip(slow.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-10, atol=1e-12, msg=lambda text, k=key: f"{k}: {text}")
    tokens = rows(2, length)
    with torch.no_grad():
        logits = slow(tokens)
        torch.testing.assert_close(fast(tokens), logits, rtol=0, atol=1e-11)
    chunks = [CONTEXT // 2, 1, 1, length - CONTEXT // 2 - 2]
    torch.testing.assert_close(decode(fast, tokens, chunks, size)[0], logits, rtol=0, atol=1e-10)


@every_arm
@with_and_without_bias
def test_a_state_dict_is_the_whole_model(arm: Arm, bias: bool) -> None:
    model, row = model_of(arm, bias), rows(2, CONTEXT)
    state = model.state_dict()
    assert set(state) == {key for key, _ in model.named_parameters()}, "a key is doubled, or not a parameter"
    other = random_model(tiny(arm, bias=bias), seed=1)
    with torch.no_grad():
        assert not torch.allclose(other(row), model(row))
        other.load_state_dict(state)
        assert torch.equal(other(row), model(row))


@every_arm
def test_the_order_of_earlier_tokens_matters(arm: Arm) -> None:
    """Also without an encoding: in the second layer, tokens differ by what they could see."""
    model, row = model_of(arm), rows(1, CONTEXT)
    swapped = row.clone()
    swapped[0, [-2, -3]] = row[0, [-3, -2]]
    with torch.no_grad():
        assert (model(swapped)[0, -1] - model(row)[0, -1]).abs().max() > 1e-6


@pytest.mark.parametrize("pos", options("pos"))
@pytest.mark.parametrize("window", options("window"))
def test_one_layer_without_an_encoding_sees_a_bag_of_tokens(pos: str, window: str) -> None:
    """The other side of the test above: the encoding alone makes the difference there."""
    model = random_model(tiny(arm(pos=pos, window=window), n_layer=1))
    row = rows(1, CONTEXT)
    swapped = row.clone()
    swapped[0, [-2, -3]] = row[0, [-3, -2]]
    with torch.no_grad():
        difference = (model(swapped)[0, -1] - model(row)[0, -1]).abs().max()
    assert difference < 1e-12 if pos == "none" else difference > 1e-6


# Windows, by themselves


def windows_of(option: str) -> list[Window]:
    window = part(tiny(arm(window=option)).window)
    return [window.at(layer, 4) for layer in range(4)]


@pytest.mark.parametrize("option", options("window"))
@settings(max_examples=60, deadline=None)
@given(q=st.integers(0, 2000), k=st.integers(0, 2000))
def test_window_convention(option: str, q: int, k: int) -> None:
    for window in windows_of(option):
        see = visible(Where(torch.tensor([[q]]), torch.tensor([[k, q, -1]])), window.allows)[0, 0]
        assert see.dtype == torch.bool
        assert see[1], "a token sees itself"
        assert not see[2], "an empty slot is never seen"
        if k > q:
            assert not see[0], "the future is never seen"
        if window.reach is not None and q - k >= window.reach:
            assert not see[0], "nothing is seen beyond the reach"


@pytest.mark.parametrize("option", options("window"))
@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 40))
def test_a_window_that_covers_a_row_is_plain_causal_attention(option: str, length: int) -> None:
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for window in windows_of(option):
        seen = visible(Where.rows(length), window.allows)[0]
        assert not (seen & ~causal).any()
        if window.covers(length):
            assert torch.equal(seen, causal)
    again = windows_of(option)
    assert again == windows_of(option), "layers that agree share one mask: windows compare by value"
    assert [hash(window) for window in again] == [hash(window) for window in windows_of(option)]


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 50), q=st.integers(0, 200), k=st.integers(0, 200), length=st.integers(1, 60))
def test_a_sliding_window_of_size_sees_size_tokens(size: int, q: int, k: int, length: int) -> None:
    cfg = tiny(arm(window="sliding")).window
    cfg.size = size
    window = part(cfg)
    seen = visible(Where(torch.tensor([[q]]), torch.tensor([[k]])), window.allows)
    assert seen.item() == (0 <= q - k < size)
    counts = visible(Where.rows(length), window.allows)[0].sum(1)
    assert counts.tolist() == [min(size, t + 1) for t in range(length)]
    assert (window.reach, window.covers(length)) == (size, length <= size)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 12), reach=st.none() | st.integers(1, 20), chunks=st.lists(st.integers(1, 9), max_size=9))
def test_the_cache_keeps_the_newest_tokens_and_knows_where_they_stood(
    size: int, reach: int | None, chunks: list[int]
) -> None:
    """What each slot holds is written in it: the position itself."""

    class Back(Window):
        @property
        def reach(self) -> int | None:
            return reach

        def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
            raise AssertionError("a cache never asks")

    cache, window, slots = Cache(size), Back(), min(size, reach or size)
    for count in chunks:
        if slots != reach and cache.length + count > size:
            with pytest.raises(ValueError, match=f"holds {size} tokens"):
                cache.keeper(0, window)(torch.zeros(1, count))
            return
        held = torch.arange(cache.length - cache.held(window), cache.length)[None]
        new = torch.arange(cache.length, cache.length + count)[None]
        (both,) = cache.keeper(0, window)(new)
        assert torch.equal(both, torch.cat((held, new), 1))
        cache.length += count
        assert cache.held(window) == min(cache.length, slots)
    assert cache.nbytes() == (8 * slots if chunks else 0)


# Encodings, by themselves


def encoding(option: str, n_head: int = 4, head_dim: int = 8) -> PositionalEncoding:
    shape = Shape(
        n_layer=1, n_head=n_head, d_model=n_head * head_dim, context=CONTEXT, vocab_size=VOCAB, dropout=0.0, bias=False
    )
    found: PositionalEncoding = part(tiny(arm(pos=option)).pos, shape, head_dim, n_head)
    return found


def logit(pos: PositionalEncoding, q: Tensor, k: Tensor, at: int, to: int) -> Tensor:
    """(H,) logits of one query at position ``at`` for one key at position ``to``; q, k (1, 1, H, R)."""
    there, here = torch.tensor([[to]]), torch.tensor([[at]])
    product = (pos.rotate(q, k, pos.table(here))[0] * pos.rotate(q, k, pos.table(there))[1]).sum(-1)[0, 0]
    return product + pos.bias(torch.arange(q.shape[2]), here[0], there[0]) if pos.biased else product


@pytest.mark.parametrize("option", ["rope", "alibi", "none"])
@settings(max_examples=50, deadline=None)
@given(
    far=st.integers(0, 300),
    to=st.integers(0, 5000),
    shift=st.integers(1, 100_000),
    seed=st.integers(0, 99),
)
def test_relative_encodings_know_the_distance_alone(option: str, far: int, to: int, shift: int, seed: int) -> None:
    pos = encoding(option)
    q, k = torch.randn(2, 1, 1, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    here = logit(pos, q, k, to + far, to)
    torch.testing.assert_close(logit(pos, q, k, to + far + shift, to + shift), here, rtol=0, atol=1e-8)
    if option != "none":
        assert (logit(pos, q, k, to + far + 1, to) - here).abs().max() > 1e-6, "and they do know it"


@settings(max_examples=50, deadline=None)
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


def test_alibi_slopes_are_the_papers() -> None:
    pos = encoding("alibi", n_head=8)
    for head, slope in enumerate([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]):
        assert pos.bias(torch.tensor(head), torch.tensor(9), torch.tensor(2)).item() == -7 * slope
    pos = encoding("alibi", n_head=16)
    first = pos.bias(torch.tensor(0), torch.tensor(1), torch.tensor(0)).item()
    assert math.isclose(first, -(2**-0.5), rel_tol=1e-6), "for 16 heads, 2^(-1/2) is the first and the ratio"


@settings(max_examples=30, deadline=None)
@given(at=st.integers(0, 50_000), theta=st.floats(10, 1e6), scale=st.floats(0.01, 2))
def test_sinusoidal_is_the_papers_formula(at: int, theta: float, scale: float) -> None:
    cfg = tiny(arm(pos="sinusoidal"))
    cfg.pos.theta, cfg.pos.scale = theta, scale
    pos = build(cfg, VOCAB).pos
    x = torch.zeros(1, 1, 16, dtype=torch.float64)
    for i, found in enumerate(pos.embed(x, torch.tensor([[at]]))[0, 0].tolist()):
        angle = at / theta ** ((i - i % 2) / 16)
        assert math.isclose(found, scale * (math.cos(angle) if i % 2 else math.sin(angle)), abs_tol=1e-9)


def test_learned_positions_are_a_table() -> None:
    pos = encoding("learned")
    x = torch.randn(2, CONTEXT, 32, generator=torch.Generator().manual_seed(0))
    at = torch.arange(CONTEXT).flip(0)[None]
    assert torch.equal(pos.embed(x, at), x + pos.embedding.weight.flip(0))


@pytest.mark.parametrize("option", options("pos"))
def test_every_encoding_keeps_shape_and_dtype(option: str) -> None:
    pos, at = encoding(option), torch.arange(3)[None]
    for dtype in (torch.float32, torch.bfloat16):
        x, heads = torch.ones(2, 3, 32, dtype=dtype), torch.ones(2, 3, 4, 8, dtype=dtype)
        assert pos.to(dtype).embed(x, at).dtype == dtype and pos.embed(x, at).shape == x.shape
        for turned in pos.rotate(heads, heads, pos.table(at)):
            assert (turned.dtype, turned.shape) == (dtype, heads.shape)


# Documents: data, not a window, so they compose with all of them


@pytest.mark.parametrize("kernel", options("kernel"))
@pytest.mark.parametrize("window", options("window"))
@pytest.mark.parametrize("option", options("pos"))
def test_packed_documents_equal_separate_rows(option: str, window: str, kernel: str) -> None:
    model = random_model(tiny(arm(pos=option, window=window, kernel=kernel)))
    stream = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, CONTEXT, 4, 4, dtype=torch.float64, generator=stream)
    ends = [0, 7, CONTEXT]
    at = torch.cat([torch.arange(b - a) for a, b in pairwise(ends)])[None]
    document = torch.tensor([[0] * 7 + [1] * 5])
    packed = look(model, model.windows[0], Where(at, at, document, document), q, k, v)
    alone = [
        look(model, model.windows[0], Where.rows(b - a), q[:, a:b], k[:, a:b], v[:, a:b]) for a, b in pairwise(ends)
    ]
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=0, atol=1e-12)


def look(model: GPT, window: Window, where: Where, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One layer's attention, as the model would bind it."""
    kernel, pos = model.kernel, model.pos
    assert isinstance(kernel, Kernel)
    view = View(pos, kernel, pos.table(where.q_pos), kernel.mask(where, window, pos))
    return view.attend(*view.rotate(q, k), v, scale=0.5)
