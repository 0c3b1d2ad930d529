"""Decoding with a cache, and packed documents, give the logits of the full forward."""

from itertools import pairwise

import torch
from torch import Tensor

from gptx.model.gpt import GPT
from gptx.model.kv_cache import KVCache
from gptx.proofs.failure import require, require_equal
from gptx.proofs.small_model import CONTEXT, rows

LONG = 3 * CONTEXT


def decoding_in_chunks_equals_the_full_forward(model: GPT, tokens: Tensor) -> None:
    """Token by token, and in chunks of different sizes; longer than every ring buffer that is shorter than the row."""
    length, size = decoding_sizes(model)
    tokens = rows(2, length)
    with torch.no_grad():
        full = model(tokens)
    for cuts in ([1] * length, [CONTEXT // 2, 1, 1, length - CONTEXT // 2 - 2]):
        logits, cache = decode(model, tokens, cuts, size)
        how = "token by token" if len(cuts) == length else "in chunks"
        require_equal(logits, full, f"logits (row, position, id) decoded {how} differ from the full forward")
        require(cache.length == length, f"the cache counts {cache.length} tokens, given {length}")
        for layer, window in enumerate(model.windows):
            expected = size if window.reach is None else min(size, window.reach)
            right = all(ring.shape[1] == expected for ring in cache.rings[layer])
            require(right, f"the cache of layer {layer} does not hold {expected} tokens")


def decode(model: GPT, tokens: Tensor, cuts: list[int], size: int) -> tuple[Tensor, KVCache]:
    """Logits of ``tokens`` that are given chunk by chunk, and the cache."""
    cache = KVCache(size)
    with torch.no_grad():
        logits = torch.cat([model(chunk, context=cache) for chunk in tokens.split(cuts, dim=1)], dim=1)
    return logits, cache


def decoding_sizes(model: GPT) -> tuple[int, int]:
    """Number of tokens to decode, and the cache size for them."""
    length = LONG if model.pos.max_length is None else min(LONG, model.pos.max_length)
    bounded = all(window.reach is not None for window in model.windows)
    return length, max(CONTEXT, *(window.reach or 0 for window in model.windows)) if bounded else length


def packed_documents_equal_separate_rows(model: GPT, tokens: Tensor) -> None:
    """Documents that share a row give the logits that they give alone, wherever they start."""
    row, ends = tokens[:, :CONTEXT], [0, 1, 7, CONTEXT]
    documents = torch.cat([torch.full((2, b - a), n % 2) for n, (a, b) in enumerate(pairwise(ends))], 1)
    # The documents of the second row start elsewhere; other documents reuse the ids.
    documents[1] = documents[1].flip(0)
    cuts = [ends, [CONTEXT - end for end in reversed(ends)]]
    with torch.no_grad():
        packed = model(row, documents=documents)
        for one, text, places in zip(packed, row, cuts, strict=True):
            alone = torch.cat([model(text[None, a:b])[0] for a, b in pairwise(places)])
            require_equal(one, alone, f"logits (position, id) of packed documents (cut at {places}) differ from rows")
