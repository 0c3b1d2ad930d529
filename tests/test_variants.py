"""Every attention x pos x window on disk, and every ffn x norm x placement: proofs in float64, from the YAML alone.

A proof is a function of a random tiny model; each combination has to stand all of them. What a variant claims of
itself (its window's reach, that an encoding is relative, what a kernel refuses) is held against what it does.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from helpers_model import (
    ARMS,
    CONTEXT,
    FIRST,
    GROUPS,
    SIZE,
    VOCAB,
    Arm,
    arm,
    model_of,
    name,
    one_thread,  # noqa: F401 - a fixture
    options,
    random_model,
    randomise,
    rows,
    tiny,
    yaml,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gptx.assembly import build
from gptx.attention.base import Attention
from gptx.cache import Cache, keep_nothing
from gptx.kernel.base import Kernel
from gptx.measure import cost
from gptx.model import GPT
from gptx.parts import part
from gptx.pos.base import PositionalEncoding
from gptx.pos.none import NoPE
from gptx.shape import Shape
from gptx.view import View
from gptx.where import Where, visible
from gptx.window.base import Window

LONG = 3 * CONTEXT


def test_what_the_project_began_with_is_on_disk() -> None:
    for group, names in FIRST.items():
        assert names <= set(options(group)), group


def test_windows_are_small_enough_here_to_hide_something() -> None:
    for option in set(options("window")) - {"full"}:
        assert not all(window.covers(CONTEXT) for window in model_of(arm(window=option)).windows), option


# The proofs. Each takes a random model in float64 and some random tokens (2, CONTEXT + 1).


def the_future_never_changes_the_past(model: GPT, tokens: Tensor) -> None:
    row = tokens[:1, :CONTEXT]
    later = torch.ones(CONTEXT, CONTEXT, dtype=torch.long).triu(1)
    changed = (row + later) % VOCAB  # row t of the batch: other tokens after t
    with torch.no_grad():
        logits, other = model(row)[0], model(changed)
    difference = (other - logits).abs().amax(-1)  # (T, T): at q, when all after t is changed
    assert difference.tril().max() < 1e-12
    assert difference.diagonal(1).min() > 1e-3, "the change was not even seen by itself"


def influence_goes_exactly_as_far_as_the_windows_let_it(model: GPT, tokens: Tensor) -> None:
    felt, expected = influence(model, tokens[:1, :CONTEXT]), torch.eye(CONTEXT)
    for window in model.windows:
        expected = sight(model, visible(Where.rows(CONTEXT), window.allows)[0]).float() @ expected
    assert torch.equal(felt > 1e-12, expected > 0)
    reaches = [window.reach for window in model.windows]
    bound = sum(reach - 1 for reach in reaches if reach is not None) if None not in reaches else CONTEXT
    distance = torch.arange(CONTEXT)[:, None] - torch.arange(CONTEXT)
    assert (felt[distance > bound] < 1e-12).all()


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


def sight(model: GPT, seen: Tensor) -> Tensor:
    """(T, T): the keys whose tokens matter to a layer. Where keys decay, those between a visible one and the query do
    too: each of them says how much is forgotten on the way."""
    if "decay" not in attention_of(model).demands:
        return seen
    return seen.cummax(dim=1).values.tril()


def attention_of(model: GPT) -> Attention:
    found = model.blocks[0].attention
    assert isinstance(found, Attention)
    return found


def the_gradient_reaches_every_parameter(model: GPT, tokens: Tensor) -> None:
    named = dict(model.named_parameters())
    tokens = rows(4, CONTEXT + 1)
    gradients = torch.autograd.grad(model(tokens[:, :-1], tokens[:, 1:]), list(named.values()))
    for key, gradient in zip(named, gradients, strict=True):
        assert gradient.isfinite().all(), key
        if key.endswith("attention.k.bias") and not shifts(model, int(key.split(".")[1])):
            assert gradient.abs().max() < 1e-12, key
        else:
            assert gradient.abs().max() > 1e-6, key


def shifts(model: GPT, layer: int) -> bool:
    """Whether one vector added to all keys of a layer changes its weights. If they are not turned to their places, it
    adds the same number to all logits of a query, which softmax does not see, unless a sink stands beside them."""
    pos, probe = model.layer_pos[layer], torch.ones(1, CONTEXT, 1, attention_of(model).rotary_dim, dtype=torch.float64)
    turned = pos.rotate(probe, probe, pos.table(torch.arange(CONTEXT)[None]))[1]
    return not torch.equal(turned, probe) or bool(attention_of(model).demands & {"sink", "softcap"})


def decoding_in_chunks_equals_the_full_forward(model: GPT, tokens: Tensor) -> None:
    """Token by token, and in uneven chunks; past the end of every ring wherever there is one."""
    length, size = room(model)
    tokens = rows(2, length)
    with torch.no_grad():
        whole = model(tokens)
    for chunks in ([1] * length, [CONTEXT // 2, 1, 1, length - CONTEXT // 2 - 2]):
        logits, cache = decode(model, tokens, chunks, size)
        torch.testing.assert_close(logits, whole, rtol=0, atol=1e-10)
        assert cache.length == length
        for layer, window in enumerate(model.windows):
            expected = size if window.reach is None else min(size, window.reach)
            assert all(ring.shape[1] == expected for ring in cache.rings[layer])


def decode(model: GPT, tokens: Tensor, chunks: list[int], size: int) -> tuple[Tensor, Cache]:
    """Logits of ``tokens`` given chunk by chunk."""
    cache = Cache(size)
    with torch.no_grad():
        logits = torch.cat([model(chunk, cache=cache) for chunk in tokens.split(chunks, dim=1)], dim=1)
    return logits, cache


def room(model: GPT) -> tuple[int, int]:
    """How many tokens to decode, and the cache for them."""
    length = LONG if model.pos.max_length is None else min(LONG, model.pos.max_length)
    bounded = all(window.reach is not None for window in model.windows)
    return length, max(CONTEXT, *(window.reach or 0 for window in model.windows)) if bounded else length


def packed_documents_equal_separate_rows(model: GPT, tokens: Tensor) -> None:
    row, ends = tokens[:, :CONTEXT], [0, 1, 7, CONTEXT]
    documents = torch.cat([torch.full((2, b - a), n) for n, (a, b) in enumerate(pairwise(ends))], 1)
    documents[1] = 3 - documents[1].flip(0)  # the second row is cut elsewhere
    cuts = [ends, [CONTEXT - end for end in reversed(ends)]]
    with torch.no_grad():
        packed = model(row, documents=documents)
        for one, text, places in zip(packed, row, cuts, strict=True):
            alone = torch.cat([model(text[None, a:b])[0] for a, b in pairwise(places)])
            torch.testing.assert_close(one, alone, rtol=0, atol=1e-11)


def every_kernel_equals_the_reference(model: GPT, tokens: Tensor) -> None:
    """Loss, gradient of every parameter, packed documents and decoding, for all kernels that do not refuse."""
    length, size = room(model)
    long, documents = rows(2, length), (torch.arange(CONTEXT) // 5).expand(2, -1)
    expected: dict[str, Tensor] = {}
    for option in sorted(kernels(model), key=lambda option: option != "reference"):
        model.kernel = kernels(model)[option]
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(model(tokens[:, :-1], tokens[:, 1:]), parameters)
        with torch.no_grad():
            found = {key: gradient for (key, _), gradient in zip(model.named_parameters(), gradients, strict=True)}
            found["packed"] = model(tokens[:, :-1], documents=documents)
            found["decoded"] = decode(model, long, [CONTEXT // 2, 1, 1, length - CONTEXT // 2 - 2], size)[0]
        expected = expected or found
        for key, value in found.items():
            torch.testing.assert_close(
                value, expected[key], rtol=1e-9, atol=1e-11, msg=lambda text, k=key, o=option: f"{o}, {k}: {text}"
            )


def kernels(model: GPT) -> dict[str, Kernel]:
    """The kernels on disk that serve a model on a CPU."""
    made = {o: part(yaml("kernel", o), model.shape, attention_of(model).demands) for o in options("kernel")}
    layers = list(zip(model.windows, model.layer_pos, strict=True))
    return {o: kernel for o, kernel in made.items() if not any(kernel.refuses(*layer, "cpu") for layer in layers)}


def a_state_dict_is_the_whole_model(model: GPT, tokens: Tensor) -> None:
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert set(state) == {key for key, _ in model.named_parameters()}, "a key is doubled, or not a parameter"
    with torch.no_grad():
        before = model(tokens[:, :-1])
        randomise(model, seed=1)
        assert not torch.allclose(model(tokens[:, :-1]), before)
        model.load_state_dict(state)
        assert torch.equal(model(tokens[:, :-1]), before)


def the_order_of_earlier_tokens_matters(model: GPT, tokens: Tensor) -> None:
    """Also without an encoding: in the second layer, tokens differ by what they could see."""
    row = tokens[:1, :CONTEXT]
    swapped = row.clone()
    swapped[0, [-2, -3]] = row[0, [-3, -2]]
    with torch.no_grad():
        assert (model(swapped)[0, -1] - model(row)[0, -1]).abs().max() > 1e-6


def a_relative_encoding_does_not_see_where_a_row_begins(model: GPT, tokens: Tensor) -> None:
    """A layer's output, when all positions are shifted by as much as leaves the window's mask alone."""
    model.train(False)
    for layer, (window, pos) in enumerate(zip(model.windows, model.layer_pos, strict=True)):
        outputs, masks = [], []
        for shift in (0, 4 * SIZE * CONTEXT):
            at = torch.arange(CONTEXT)[None] + shift
            where = Where(at, at)
            view = View(pos, model.kernel, pos.table(at), model.kernel.mask(where, window, pos))
            with torch.no_grad():
                x = model.embed(tokens[:1, :CONTEXT])
                outputs.append(model.blocks[layer].attention(x, view, keep_nothing))
            masks.append(visible(where, window.allows))
        if pos.max_length is None and torch.equal(*masks):
            same = (outputs[0] - outputs[1]).abs().max()
            assert same < 1e-8 if pos.relative or in_no_logit(pos) else same > 1e-8


def in_no_logit(pos: PositionalEncoding) -> bool:
    """Whether an encoding lives in the embedding alone."""
    own = type(pos)
    return own.embed is not PositionalEncoding.embed and own.rotate is PositionalEncoding.rotate and not own.biased


def what_it_costs_is_what_is_measured(model: GPT, tokens: Tensor) -> None:
    """FLOPs against torch's counter, which counts all T x T pairs where `cost` counts the visible ones; and the cache
    against what is really held after one row."""
    price = cost(model, torch.float64)
    model.kernel = kernels(model)["reference"]
    row = tokens[:1]
    with FlopCounterMode(display=False) as counter:
        model(row[:, :-1], row[:, 1:]).backward()
    model.zero_grad()
    hidden = [int((~visible(Where.rows(CONTEXT), window.allows)).sum()) for window in model.windows]
    widths = [block.attention.pair_width for block in model.blocks]
    surplus = sum(width * pairs for width, pairs in zip(widths, hidden, strict=True))
    rooms = {(w, p): pairs for w, p, pairs in zip(model.windows, model.layer_pos, hidden, strict=True)}
    surplus += sum(pos.pair_width * pairs for (_, pos), pairs in rooms.items())
    assert abs(counter.get_total_flops() - 6 * surplus - CONTEXT * price.flops_per_token) <= CONTEXT / 2, "rounding"
    held = decode(model, tokens[:1, :CONTEXT], [1] * CONTEXT, CONTEXT)[1].nbytes()
    assert price.kv_bytes_per_token == held / CONTEXT
    assert price.n_params == sum(value.numel() for value in model.state_dict().values())


PROOFS: tuple[Callable[[GPT, Tensor], None], ...] = (
    the_future_never_changes_the_past,
    influence_goes_exactly_as_far_as_the_windows_let_it,
    the_gradient_reaches_every_parameter,
    decoding_in_chunks_equals_the_full_forward,
    packed_documents_equal_separate_rows,
    every_kernel_equals_the_reference,
    a_state_dict_is_the_whole_model,
    the_order_of_earlier_tokens_matters,
    a_relative_encoding_does_not_see_where_a_row_begins,
    what_it_costs_is_what_is_measured,
)


def prove(model: GPT, tokens: Tensor) -> None:
    kernel = model.kernel
    for proof in PROOFS:
        model.kernel = kernel
        try:
            proof(model, tokens)
        except Exception as error:
            error.add_note(f"the proof: {proof.__name__}")
            raise


@pytest.mark.parametrize("arm", ARMS, ids=name)
def test_a_combination_stands_every_proof(arm: Arm, record_property: Callable[[str, object], None]) -> None:
    model = random_model(tiny(arm, bias=True, d_model=32))
    prove(model, rows(2, CONTEXT + 1))
    record_property("proven", "-".join(group for group, _ in arm))
    record_property("kernels", len(kernels(model)))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_size_of_any_combination_stands_the_proofs(data: st.DataObject) -> None:
    """Other widths, heads, groups, layers, window sizes and options than the defaults, drawn together."""
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
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) > 20, "refused in one line"
        assume(False)
    randomise(model, draw(st.integers(0, 99), label="seed"))
    model.double().eval()
    length, size = room(model)
    cuts = draw(st.sets(st.integers(1, length - 1), max_size=6), label="cuts")
    chunks = [b - a for a, b in pairwise([0, *sorted(cuts), length])]
    tokens = rows(2, length)
    with torch.no_grad():
        torch.testing.assert_close(decode(model, tokens, chunks, size)[0], model(tokens), rtol=0, atol=1e-9)
    for proof in (every_kernel_equals_the_reference, packed_documents_equal_separate_rows):
        proof(model, rows(2, CONTEXT + 1))


# Compilation

_ATTENTIONS, _POSITIONS, _WINDOWS = (options(group) for group in ("attention", "pos", "window"))
# Each two options of different groups meet in one of these.
MEETINGS = [
    arm(attention=a, pos=p, window=_WINDOWS[(i + j) % len(_WINDOWS)])
    for i, a in enumerate(_ATTENTIONS)
    for j, p in enumerate(_POSITIONS)
] + [a for a in ARMS if a[0][0] != "attention"]


def compiles_whole(arm: Arm) -> None:
    """One graph, and the same numbers."""
    model, tokens = random_model(tiny(arm, bias=True, d_model=32)), rows(2, CONTEXT + 1)
    x, y = tokens[:, :-1], tokens[:, 1:]
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), model(x, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arm", MEETINGS, ids=name)
def test_compiles_without_a_graph_break(arm: Arm) -> None:
    compiles_whole(arm)


@pytest.mark.slow
@pytest.mark.parametrize("arm", [a for a in ARMS if a not in MEETINGS], ids=name)
def test_every_other_combination_compiles_too(arm: Arm) -> None:
    compiles_whole(arm)


# What only some show


def test_a_cache_that_is_too_small_refuses() -> None:
    for window in ("full", "sliding"):  # a ring shorter than the window's reach cannot go round either
        model = model_of(arm(pos="rope", window=window))
        size = SIZE - 1
        with pytest.raises(ValueError, match=f"holds {size} tokens, given {size + 1}"):
            decode(model, rows(1, SIZE), [1] * SIZE, size)


def test_a_sliding_window_hides_what_lies_further_back_than_its_layers_reach() -> None:
    felt = influence(model_of(arm(window="sliding")), rows(1, CONTEXT))
    distance = torch.arange(CONTEXT)[:, None] - torch.arange(CONTEXT)
    assert (felt[(distance >= 0) & (distance <= 2 * (SIZE - 1))] > 0).all()
    assert (felt[distance > 2 * (SIZE - 1)] == 0).sum() == 6, "3 + 2 + 1 pairs of the past"


@pytest.mark.parametrize("pos", options("pos"))
@pytest.mark.parametrize("window", options("window"))
def test_one_layer_without_an_encoding_sees_a_bag_of_tokens(pos: str, window: str) -> None:
    """The other side of the order that matters: in one layer, the encoding alone makes it."""
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
    return found.at(0, part(tiny(arm(window="sliding")).window))  # of a local layer: there, all of them say something


def logit(pos: PositionalEncoding, q: Tensor, k: Tensor, at: int, to: int) -> Tensor:
    """(H,) logits of one query at position ``at`` for one key at position ``to``; q, k (1, 1, H, R)."""
    there, here = torch.tensor([[to]]), torch.tensor([[at]])
    product = (pos.rotate(q, k, pos.table(here))[0] * pos.rotate(q, k, pos.table(there))[1]).sum(-1)[0, 0]
    return product + pos.bias(torch.arange(q.shape[2]), here[0], there[0]) if pos.biased else product


@pytest.mark.parametrize("option", [option for option in options("pos") if encoding(option).relative])
@settings(max_examples=50, deadline=None)
@given(far=st.integers(0, 300), to=st.integers(0, 5000), shift=st.integers(1, 100_000), seed=st.integers(0, 99))
def test_relative_encodings_know_the_distance_alone(option: str, far: int, to: int, shift: int, seed: int) -> None:
    pos = encoding(option)
    assume(pos.max_length is None or to + far + shift < pos.max_length)
    q, k = torch.randn(2, 1, 1, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    here = logit(pos, q, k, to + far, to)
    torch.testing.assert_close(logit(pos, q, k, to + far + shift, to + shift), here, rtol=0, atol=1e-8)
    if option != "none":
        one, two = logit(pos, q, k, to + 1, to), logit(pos, q, k, to + 2, to)
        assert (one - two).abs().max() > 1e-6, "and they do know it"


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
