"""Draw tokens from a model, one after the other, with a KV cache."""

import codecs
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from gptx.model.cache import KVCache
from gptx.model.gpt import GPT
from gptx.tokenizer.base import Tokenizer


def pick(logits: Tensor, temperature: float, top_k: int, top_p: float, stream: torch.Generator) -> Tensor:
    """(B, V) logits -> (B, 1) tokens. Temperature 0 is greedy; top_k 0 and top_p 1 are off."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = (logits - logits.max(-1, keepdim=True).values) / max(temperature, 1e-6)  # colder, fp32 would overflow
    if top_k:
        weakest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < weakest, float("-inf"))
    probs = logits.softmax(-1)
    if top_p < 1:
        ranked, order = probs.sort(dim=-1, descending=True)
        ranked[ranked.cumsum(-1) - ranked >= top_p] = 0  # the first token that passes top_p is still in
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
    """Yield up to ``count`` tokens that follow ``prompt``, until one of ``stop``.

    ``n_vocab`` is the tokenizer's size, where the model's vocabulary is larger. The model sees at most its trained
    context: when that is full, it goes on from the newest half of it.
    """
    model.eval()
    device, context = model.embed.weight.device, model.shape.context
    stream = torch.Generator(device).manual_seed(seed)
    seen = list(prompt)[-context:]
    cache, fresh = KVCache(context), seen
    for _ in range(count):
        if len(seen) > context:
            seen = seen[-max(1, context // 2) :]
            cache, fresh = KVCache(context), seen
        given = torch.tensor([fresh if cached else seen], device=device)
        with autocast():
            logits = model(given, memory=cache if cached else None)[:, -1, :n_vocab].float()
        token = int(pick(logits, temperature, top_k, top_p, stream))
        if token in stop:
            return
        yield token
        fresh = [token]
        seen.append(token)


def text(model: GPT, tokenizer: Tokenizer, prompt: str, count: int, **options: Any) -> Iterator[str]:
    """Like `tokens`, from text to text; characters of several bytes come out whole."""
    ids = [int(i) for i in tokenizer.encode(prompt)]
    if not ids:
        ids = [tokenizer.eot] if tokenizer.eot is not None else [int(tokenizer.encode("\n\n")[0])]
    options["n_vocab"] = tokenizer.n_vocab
    if tokenizer.eot is not None:  # another document would follow
        options["stop"] = {*options.get("stop", ()), tokenizer.eot}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens(model, ids, count, **options):
        piece = decoder.decode(tokenizer.decode_bytes([token]))
        if piece:
            yield piece
    yield decoder.decode(b"", final=True)
