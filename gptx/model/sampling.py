"""Sample tokens from a model, one at a time, with a KV cache.

Letters: B batch, V vocabulary.
"""

import codecs
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from gptx.model.gpt import GPT
from gptx.model.kv_cache import KVCache
from gptx.tokenizer.base import Tokenizer


def pick(logits: Tensor, temperature: float, top_k: int, top_p: float, stream: torch.Generator) -> Tensor:
    """Sample from logits (B, V); return tokens (B, 1). Temperature 0 is greedy; top_k 0 and top_p 1 have no effect."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = (logits - logits.max(-1, keepdim=True).values) / max(temperature, 1e-6)  # fp32 overflows below
    if top_k:
        weakest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < weakest, float("-inf"))
    probs = logits.softmax(-1)
    if top_p < 1:
        ranked, order = probs.sort(dim=-1, descending=True)
        ranked[ranked.cumsum(-1) - ranked >= top_p] = 0  # the token that reaches top_p is not removed
        probs = torch.zeros_like(probs).scatter(-1, order, ranked)
    return torch.multinomial(probs, 1, generator=stream)


@torch.no_grad()
def tokens(
    model: GPT,
    prompt: list[int],
    count: int,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Collection[int] = (),
    cached: bool = True,
    n_vocab: int | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[int]:
    """Yield up to ``count`` tokens after ``prompt``; end before a token of ``stop``.

    The model sees at most its trained context: when that is full, the older half is dropped.

    Args:
        prompt: token ids, at least one.
        temperature, top_k, top_p: see `pick`.
        seed: seed of the random stream.
        cached: use a KV cache.
        n_vocab: size of the tokenizer's vocabulary, if the model's is larger; None: equal.
        autocast: creates the context manager for the forward.
    """
    model.eval()
    stream = torch.Generator(model.embed.weight.device).manual_seed(seed)
    row = _RecentTokens(model, prompt, cached)
    for _ in range(count):
        with autocast():
            logits = row.next_logits()[:, :n_vocab].float()
        token = int(pick(logits, temperature, top_k, top_p, stream))
        if token in stop:
            return
        yield token
        row.append(token)


class _RecentTokens:
    """The newest tokens, as many as the model's context, and the cache of those that the model has seen."""

    def __init__(self, model: GPT, prompt: list[int], cached: bool) -> None:
        self.model, self.cached, self.context = model, cached, model.shape.context
        self._start(prompt[-self.context :])

    def _start(self, tokens: list[int]) -> None:
        self.tokens, self.new, self.cache = list(tokens), list(tokens), KVCache(self.context)

    def next_logits(self) -> Tensor:
        """(1, V): the logits of the next token."""
        given = torch.tensor([self.new if self.cached else self.tokens], device=self.model.embed.weight.device)
        logits: Tensor = self.model(given, context=self.cache if self.cached else None)  # (1, T, V)
        return logits[:, -1]

    def append(self, token: int) -> None:
        """Add a token. If the context is full, drop the older half of the tokens, and the cache."""
        self.tokens.append(token)
        self.new = [token]
        if len(self.tokens) > self.context:
            self._start(self.tokens[-max(1, self.context // 2) :])


def text(model: GPT, tokenizer: Tokenizer, prompt: str, count: int, **options: Any) -> Iterator[str]:
    """Like `tokens`, from text to text. A character of several bytes is yielded when its last byte is known.

    Args:
        options: keyword arguments of `tokens`.
    """
    ids = [int(i) for i in tokenizer.encode(prompt)]
    if not ids:
        ids = tokenizer.separator()[:1].tolist() or [0]  # tokenizer=ids may have no separator
    options["n_vocab"] = tokenizer.n_vocab
    if tokenizer.eot is not None:  # the end of the document
        options["stop"] = {*options.get("stop", ()), tokenizer.eot}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens(model, ids, count, **options):
        if characters := decoder.decode(tokenizer.decode_bytes([token])):
            yield characters
    yield decoder.decode(b"", final=True)


def up_to(stops: Sequence[str], chunks: Iterable[str]) -> Iterator[str]:
    """The chunks of a text up to the string of ``stops`` that is complete first, which may lie across several chunks;
    all of them if there is none. What may be its beginning is yielded as soon as it is known not to be.

    Args:
        stops: not empty strings.
    """
    held = ""
    for chunk in chunks:
        held += chunk
        ends = [(start + len(stop), start) for stop in stops if (start := held.find(stop)) >= 0]
        if ends:
            yield held[: min(ends)[1]]
            return
        begun = max((_begun(stop, held) for stop in stops), default=0)
        yield held[: len(held) - begun]
        held = held[len(held) - begun :]
    yield held


def _begun(stop: str, text: str) -> int:
    """How many characters at the end of a text may be the beginning of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
