"""Windows against their papers: the exact set of keys that each query sees, by plain loops."""

from collections.abc import Callable
from itertools import takewhile

import pytest
import torch
from helpers_model import CONTEXT, VOCAB, arm, options, rejected, tiny, window
from hypothesis import given, settings
from hypothesis import strategies as st

from gptx.geometry.visibility import Where, visible
from gptx.model.build import build


def sink_keys(q: int, size: int, sinks: int) -> set[int]:
    """StreamingLLM, figure 4: the rolling cache's most recent tokens, and the initial ones."""
    tokens = list(range(q + 1))
    return set(tokens[-size:]) | set(tokens[:sinks])


def dilated_keys(q: int, size: int, step: int) -> set[int]:
    """Longformer, section 3.1: a window of this many tokens, with gaps between them."""
    return set(takewhile(lambda k: k >= 0, (q - i * step for i in range(size))))


def chunked_keys(q: int, size: int) -> set[int]:
    tokens = list(range(q + 1))
    return set([tokens[i : i + size] for i in range(0, q + 1, size)][-1])


def strided_keys(q: int, stride: int) -> set[int]:
    """Sparse Transformer, section 4.3: both sets as printed."""
    first = set(range(max(0, q - stride), q + 1))
    second = {j for j in range(q + 1) if (q - j) % stride == 0}
    return first | second


ONE = st.integers(1, 9)
PAPERS: dict[str, tuple[Callable[..., set[int]], st.SearchStrategy[dict[str, int]]]] = {
    "sliding_sink": (sink_keys, st.fixed_dictionaries({"size": ONE, "sinks": ONE})),
    "dilated": (dilated_keys, st.fixed_dictionaries({"size": ONE, "step": ONE})),
    "chunked": (chunked_keys, st.fixed_dictionaries({"size": ONE})),
    "strided": (strided_keys, st.fixed_dictionaries({"stride": ONE})),
}
COUNTS: dict[str, Callable[..., int]] = {
    "sliding_sink": lambda t, size, sinks: min(t + 1, size + sinks),
    "dilated": lambda t, size, step: min(size, t // step + 1),
    "chunked": lambda t, size: t % size + 1,
    "strided": lambda t, stride: min(t, stride) + 1 + max(0, t // stride - 1),
}


def test_every_window_has_a_reference_here() -> None:
    assert {"full", "sliding", "alternating", *PAPERS} <= set(options("window"))


@pytest.mark.parametrize("option", PAPERS)
@settings(max_examples=26)
@given(data=st.data(), length=st.integers(1, 60))
def test_windows_show_the_keys_of_their_papers(option: str, data: st.DataObject, length: int) -> None:
    paper, keys = PAPERS[option]
    chosen = data.draw(keys)
    see = window(option, **chosen)
    seen = visible(Where.rows(length), see.allows)[0]
    for q, row in enumerate(seen):
        assert set(row.nonzero()[:, 0].tolist()) == paper(q, **chosen)
        assert row.sum() == COUNTS[option](q, **chosen)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    assert see.covers(length) == torch.equal(seen, causal), "nothing more and nothing less"


@pytest.mark.parametrize("option", PAPERS)
@settings(max_examples=20)
@given(data=st.data())
def test_reach_is_tight(option: str, data: st.DataObject) -> None:
    """The ring buffer has `reach` slots: fewer would lose visible tokens, more would waste memory."""
    see = window(option, **data.draw(PAPERS[option][1]))
    assert see.reach is None if option in ("sliding_sink", "strided") else see.reach is not None
    length = 2 * (see.reach or 60)
    distance = torch.arange(length)[:, None] - torch.arange(length)
    farthest = distance[visible(Where.rows(length), see.allows)[0]].max() + 1
    assert farthest == see.reach if see.reach else farthest > length - 9, "without a reach, the first tokens are hidden"
    assert see.local == (option != "strided")


@pytest.mark.parametrize("option", PAPERS)
@settings(max_examples=13)
@given(data=st.data())
def test_windows_compare_by_value(option: str, data: st.DataObject) -> None:
    """Layers with equal windows share one mask, and layers with different windows must not."""
    one, other = (data.draw(PAPERS[option][1]) for _ in range(2))
    a, again, b = window(option, **one), window(option, **one), window(option, **other)
    assert a == again and hash(a) == hash(again)
    assert (a == b) == (one == other)
    assert len({window(o, size=5) for o in ("sliding", "chunked")}) == 2, "of another kind with the same numbers"


# Patterns of layers


@settings(max_examples=20)
@given(size=st.integers(1, 20), pattern=st.text("LG", min_size=1, max_size=7), more=st.integers(0, 9))
def test_pattern_repeats_over_the_layers(size: int, pattern: str, more: int) -> None:
    n_layer = len(pattern) + more
    pattern_ = window("alternating", size=size, pattern=pattern)
    layers = [pattern_.at(layer, n_layer) for layer in range(n_layer)]
    letters = {"L": window("sliding", size=size), "G": window("full")}
    assert layers == [letters[pattern[layer % len(pattern)]] for layer in range(n_layer)]
    assert [layer.local for layer in layers] == [letters[x] is letters["L"] for x in (pattern * n_layer)[:n_layer]]
    widest = max(layers, key=lambda layer: layer.reach or 999)
    seen, expected = (visible(Where.rows(30), w.allows) for w in (pattern_, widest))
    assert torch.equal(seen, expected), "what any layer lets through"
    assert pattern_.reach == widest.reach and all(pattern_.covers(n) == widest.covers(n) for n in range(1, 25))


@pytest.mark.parametrize("n_layer", [6, 12, 26, 34])
def test_gemma_patterns(n_layer: int) -> None:
    from transformers import Gemma2Config, Gemma3TextConfig

    kinds = {"sliding_attention": window("sliding"), "full_attention": window("full")}
    for config, pattern in ((Gemma2Config, "LG"), (Gemma3TextConfig, "LLLLLG")):
        pattern_window = window("alternating", pattern=pattern)
        kinds_of_layers = config(num_hidden_layers=n_layer).layer_types
        assert [pattern_window.at(layer, n_layer) for layer in range(n_layer)] == [
            kinds[kind] for kind in kinds_of_layers
        ]


def test_pattern_gives_each_layer_its_cache_size() -> None:
    cfg = tiny(arm(window="alternating"), n_layer=4)
    cfg.window.pattern = "LLG"
    assert [w.reach for w in build(cfg, VOCAB).windows] == [5, 5, None, 5]


@pytest.mark.parametrize("pattern", ["", "LlG", "L G", "SG"])
def test_other_letters_of_a_pattern_are_rejected(pattern: str) -> None:
    message = rejected(lambda: window("alternating", pattern=pattern))
    assert repr(pattern) in message and "L (sliding)" in message and "LLLLLG" in message
    assert window("alternating", pattern="LLLLLG")


def test_pattern_longer_than_the_model_is_rejected() -> None:
    cfg = tiny(arm(window="alternating"))
    cfg.window.pattern = "LLLLLG"
    message = rejected(build, cfg, VOCAB)
    assert "window.pattern=LLLLLG" in message and "model.n_layer=2" in message
    assert "window.pattern=LL or model.n_layer=6" in message
    cfg.model.n_layer = 6
    assert len(build(cfg, VOCAB).windows) == 6
    cfg.model.n_layer, cfg.window.pattern = 2, "LL"
    assert len(build(cfg, VOCAB).windows) == 2


# Equality with other implementations


@pytest.mark.parametrize("size", [1, 3, 5, CONTEXT, 20])
def test_chunks_equal_llama_4(size: int) -> None:
    from transformers.masking_utils import chunked_causal_mask_function

    at, zero = torch.arange(CONTEXT), torch.tensor(0)
    expected = chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.long))(zero, zero, at[:, None], at)
    assert torch.equal(visible(Where.rows(CONTEXT), window("chunked", size=size).allows)[0], expected)


# Rejections


@pytest.mark.parametrize(
    ("option", "key"),
    [(o, "size") for o in ("sliding", "alternating", "sliding_sink", "dilated", "chunked")]
    + [("dilated", "step"), ("strided", "stride")],
)
@pytest.mark.parametrize("given", [0, -3])
def test_window_that_hides_a_token_from_itself_is_rejected(option: str, key: str, given: int) -> None:
    message = rejected(lambda: window(option, **{key: given}))
    assert message == f"window.{key}={given}: expected at least 1, and at most 2147483648"
    assert window(option, **{key: 1}).allows(torch.tensor(7), torch.tensor(7))


def test_sliding_sink_rejects_zero_sinks() -> None:
    message = rejected(lambda: window("sliding_sink", sinks=0))
    assert "window.sinks=0" in message and "at least 1" in message and "window=sliding" in message
    assert "sliding" in options("window")


def test_llama_4_layout() -> None:
    see = window("alternating", size=4, pattern="CCCG")
    assert [see.at(layer, 8) for layer in range(8)] == 2 * [*3 * [window("chunked", size=4)], window("full")]
    assert see.reach is None and window("alternating", size=4, pattern="C").reach == 4
