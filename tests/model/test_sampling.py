"""Choosing the next token, and generating text."""

import math

import pytest
import torch
from helpers_model import CONTEXT, VOCAB, arm, model_of, options, random_model, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import every_option
from torch import Tensor

from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.model.sampling import pick, text, tokens
from gptx.tokenizer.byte import Byte


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SEEDS = st.integers(0, 10_000)


def some_logits(seed: int, batch: int = 8, vocab: int = 20) -> Tensor:
    return 3 * torch.randn(batch, vocab, generator=stream(seed))


@settings(max_examples=20)
@given(seed=SEEDS, draw=SEEDS, temperature=st.floats(0.05, 5), top_p=st.floats(0.01, 1), top_k=st.integers(0, 30))
def test_every_greedy_setting_picks_the_argmax(
    seed: int, draw: int, temperature: float, top_p: float, top_k: int
) -> None:
    logits = some_logits(seed)
    best = logits.argmax(-1, keepdim=True)
    assert torch.equal(pick(logits, 0, top_k, top_p, stream(draw)), best)
    assert torch.equal(pick(logits, temperature, 1, top_p, stream(draw)), best)
    assert torch.equal(pick(logits, temperature, top_k, 1e-9, stream(draw)), best)
    assert torch.equal(pick(logits, 1e-6, top_k, top_p, stream(draw)), best)


@settings(max_examples=20)
@given(seed=SEEDS, draw=SEEDS, top_k=st.integers(1, 30), top_p=st.floats(0.01, 0.999), temperature=st.floats(0.1, 5))
def test_top_k_and_top_p_keep_the_likeliest_tokens(
    seed: int, draw: int, top_k: int, top_p: float, temperature: float
) -> None:
    logits = some_logits(seed)
    before = logits.clone()
    chosen = pick(logits, temperature, top_k, 1.0, stream(draw))
    assert chosen.shape == (8, 1)
    rank = (logits > logits.gather(1, chosen)).sum(1)  # number of likelier tokens
    assert (rank < top_k).all()
    chosen = pick(logits, temperature, 0, top_p, stream(draw))
    probs = (logits / temperature).double().softmax(-1)
    likelier = torch.where(probs > probs.gather(1, chosen), probs, 0.0).sum(1)
    assert (likelier < top_p + 1e-6).all(), "the token is not in the smallest set that sums to top_p"
    assert torch.equal(logits, before), "the caller's logits were changed"


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "expected"),
    [
        (1.0, 0, 1.0, [0.4, 0.3, 0.2, 0.1]),
        (0.5, 0, 1.0, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (1.0, 2, 1.0, [4 / 7, 3 / 7, 0, 0]),
        (1.0, 0, 0.75, [4 / 9, 3 / 9, 2 / 9, 0]),
        (1.0, 0, 0.65, [4 / 7, 3 / 7, 0, 0]),
        (1.0, 9, 1.0, [0.4, 0.3, 0.2, 0.1]),
        (1.0, 3, 0.75, [4 / 7, 3 / 7, 0, 0]),  # top_p applies after top_k: 4/9 + 3/9 > 0.75
    ],
)
def test_tokens_are_drawn_with_their_probabilities(
    temperature: float, top_k: int, top_p: float, expected: list[float]
) -> None:
    many = 40_000
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(many, 4)
    counts = torch.bincount(pick(logits, temperature, top_k, top_p, stream()).flatten(), minlength=4)
    for count, p in zip(counts.tolist(), expected, strict=True):
        assert abs(count - many * p) <= 5 * math.sqrt(many * p * (1 - p))


# Generation


def generator(pos: str, window: str = "full", context: int = CONTEXT) -> GPT:
    return random_model(tiny(arm(pos=pos, window=window), context=context))


@pytest.mark.parametrize(("pos", "window"), every_option(options("pos"), options("window")))
@settings(max_examples=3)
@given(prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=2 * CONTEXT), seed=SEEDS)
def test_cache_changes_no_token(pos: str, window: str, prompt: list[int], seed: int) -> None:
    """Also beyond the trained context, where generation restarts from the newest half, and for longer prompts."""
    model, count = model_of(arm(attention="gqa", pos=pos, window=window)), 2 * CONTEXT + 5
    cached = list(tokens(model, prompt, count, seed=seed))
    assert cached == list(tokens(model, prompt, count, seed=seed, cached=False))
    assert len(cached) == count and all(0 <= token < VOCAB for token in cached)


@pytest.mark.parametrize("pos", ["rope", "learned"])
@pytest.mark.parametrize("context", [1, 2, 3])
def test_generation_with_the_shortest_contexts(pos: str, context: int) -> None:
    model = generator(pos, context=context)
    assert list(tokens(model, [1, 2, 3, 4], 9)) == list(tokens(model, [1, 2, 3, 4], 9, cached=False))


def test_greedy_generation_equals_argmax_of_the_forward() -> None:
    model, seen = generator("learned"), [3, 1]
    for token in tokens(model, [3, 1], CONTEXT - 2, temperature=0):
        with torch.no_grad():
            assert token == model(torch.tensor([seen]))[0, -1].argmax()
        seen.append(token)
    assert len(seen) == CONTEXT
    assert (
        list(tokens(model, [3, 1], 10, temperature=0)) == list(tokens(model, [3, 1], 10, top_k=1, seed=9)) == seen[2:]
    )


def test_text_depends_on_seed_and_ends_at_stop() -> None:
    model = generator("rope")
    first = list(tokens(model, [1], 40, seed=0, temperature=1.5))
    assert first == list(tokens(model, [1], 40, seed=0, temperature=1.5))
    assert first != list(tokens(model, [1], 40, seed=1, temperature=1.5))
    torch.manual_seed(5)
    assert first == list(tokens(model, [1], 40, seed=0, temperature=1.5)), "the global generator plays no part"
    stop = first[7]
    assert list(tokens(model, [1], 40, seed=0, temperature=1.5, stop=[stop])) == first[: first.index(stop)]
    assert list(tokens(model, [1], 0)) == []


def test_generation_uses_no_dropout() -> None:
    model = random_model(tiny(arm(pos="rope"), dropout=0.5)).train()
    assert list(tokens(model, [1], 20)) == list(tokens(model.train(), [1], 20))


def test_padding_of_the_vocabulary_is_never_drawn() -> None:
    """The model's vocabulary is larger than the tokenizer's; without the limit, padding ids would be drawn."""
    model = generator("rope")
    assert max(tokens(model, [1], 80, temperature=9.0)) >= 6
    assert max(tokens(model, [1], 80, temperature=9.0, n_vocab=6)) < 6


def test_text_is_streamed_in_complete_characters() -> None:
    model = build(tiny(), Byte.n_vocab).double()
    texts = list(text(model, Byte(), "né", 60, seed=3, temperature=1.0))
    ids = list(tokens(model, list("né".encode()), 60, seed=3, temperature=1.0, stop=[Byte.eot]))
    assert "".join(texts) == bytes(ids).decode("utf-8", "replace")
    assert list(text(model, Byte(), "", 5, temperature=0)), "no prompt: it begins a document"
