"""Proofs that every combination of variants must pass, in float64. A proof is a function of a random tiny model.

The declared properties of a variant (its window's reach, that an encoding is relative, what a kernel rejects) are
compared with its behaviour.
"""

from collections.abc import Callable
from itertools import pairwise
from unittest.mock import patch

import torch
from helpers_model import CONTEXT, SIZE, VOCAB, options, randomise, rows, yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gptx.attention.base import Attention
from gptx.config.instantiate import part
from gptx.geometry.visibility import Where, visible
from gptx.kernel import banded_chunks
from gptx.kernel.base import Kernel
from gptx.model.cost import cost
from gptx.model.gpt import GPT
from gptx.model.kv_cache import KVCache, keep_nothing
from gptx.model.layer_view import LayerView
from gptx.pos.base import PositionalEncoding

LONG = 3 * CONTEXT


def logits_do_not_depend_on_later_tokens(model: GPT, tokens: Tensor) -> None:
    row = tokens[:1, :CONTEXT]
    later = torch.ones(CONTEXT, CONTEXT, dtype=torch.long).triu(1)
    changed = (row + later) % VOCAB  # row t of the batch: all tokens after t differ
    with torch.no_grad():
        logits, other = model(row)[0], model(changed)
    difference = (other - logits).abs().amax(-1)  # (T, T): [t, q] of query q when all tokens after t differ
    assert difference.tril().max() < 1e-12
    assert difference.diagonal(1).min() > 1e-3, "a changed token does not change its own logits"


def influence_is_exactly_what_the_windows_allow(model: GPT, tokens: Tensor) -> None:
    found_influence, expected = influence(model, tokens[:1, :CONTEXT]), torch.eye(CONTEXT)
    for window in model.windows:
        expected = influencing_keys(model, visible(Where.rows(CONTEXT), window.allows)[0]).float() @ expected
    assert torch.equal(found_influence > 1e-12, expected > 0)
    reaches = [window.reach for window in model.windows]
    bound = sum(reach - 1 for reach in reaches if reach is not None) if None not in reaches else CONTEXT
    distance = torch.arange(CONTEXT)[:, None] - torch.arange(CONTEXT)
    assert (found_influence[distance > bound] < 1e-12).all()


def influence(model: GPT, row: Tensor) -> Tensor:
    """(T, T): norm of the gradient of the logits at q with respect to the embedding of token k."""
    length = row.shape[1]
    seen: list[Tensor] = []
    hook = model.embed.register_forward_hook(lambda module, given, out: seen.append(out))
    logits = model(row.expand(length, -1))
    hook.remove()
    weights = torch.randn(VOCAB, dtype=logits.dtype, generator=torch.Generator().manual_seed(1))
    score = (logits[torch.arange(length), torch.arange(length)] @ weights).sum()
    return torch.autograd.grad(score, seen[0])[0].norm(dim=-1)


def influencing_keys(model: GPT, seen: Tensor) -> Tensor:
    """(T, T): the keys whose tokens influence a query in one layer. With decay, these are also the tokens between a
    visible key and the query: their gates contribute to the decay."""
    if "decay" not in attention_of(model).demands:
        return seen
    return seen.cummax(dim=1).values.tril()


def attention_of(model: GPT) -> Attention:
    found = model.blocks[0].attention
    assert isinstance(found, Attention)
    return found


def every_parameter_has_a_gradient(model: GPT, tokens: Tensor) -> None:
    named = dict(model.named_parameters())
    tokens = rows(4, CONTEXT + 1)
    gradients = torch.autograd.grad(model(tokens[:, :-1], tokens[:, 1:]), list(named.values()))
    for key, gradient in zip(named, gradients, strict=True):
        assert gradient.isfinite().all(), key
        if key.endswith("attention.k.bias") and not key_bias_has_an_effect(model, int(key.split(".")[1])):
            assert gradient.abs().max() < 1e-12, key
        else:
            assert gradient.abs().max() > 1e-6, key


def key_bias_has_an_effect(model: GPT, layer: int) -> bool:
    """Whether a vector added to all keys of a layer (as a bias is) changes the attention weights. Without a rotation it
    adds the same number to all logits of a query, which changes softmax only if there is a sink or a softcap."""
    pos, probe = model.layer_pos[layer], torch.ones(1, CONTEXT, 1, attention_of(model).rotary_dim, dtype=torch.float64)
    rotated = pos.rotate(probe, probe, pos.table(torch.arange(CONTEXT)[None]))[1]
    return not torch.equal(rotated, probe) or bool(attention_of(model).demands & {"sink", "softcap"})


def decoding_in_chunks_equals_the_full_forward(model: GPT, tokens: Tensor) -> None:
    """Token by token, and in chunks of different sizes; longer than every ring buffer that is shorter than the row."""
    length, size = decoding_sizes(model)
    tokens = rows(2, length)
    with torch.no_grad():
        full = model(tokens)
    for cuts in ([1] * length, [CONTEXT // 2, 1, 1, length - CONTEXT // 2 - 2]):
        logits, cache = decode(model, tokens, cuts, size)
        torch.testing.assert_close(logits, full, rtol=0, atol=1e-10)
        assert cache.length == length
        for layer, window in enumerate(model.windows):
            expected = size if window.reach is None else min(size, window.reach)
            assert all(ring.shape[1] == expected for ring in cache.rings[layer])


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
    row, ends = tokens[:, :CONTEXT], [0, 1, 7, CONTEXT]
    documents = torch.cat([torch.full((2, b - a), n % 2) for n, (a, b) in enumerate(pairwise(ends))], 1)
    # The documents of the second row start elsewhere; other documents reuse the ids.
    documents[1] = documents[1].flip(0)
    cuts = [ends, [CONTEXT - end for end in reversed(ends)]]
    with torch.no_grad():
        packed = model(row, documents=documents)
        for one, text, places in zip(packed, row, cuts, strict=True):
            alone = torch.cat([model(text[None, a:b])[0] for a, b in pairwise(places)])
            torch.testing.assert_close(one, alone, rtol=0, atol=1e-11)


@patch.multiple(banded_chunks, SMALLEST=2, LARGEST=4)  # so that a short row has several chunks
def every_kernel_equals_the_reference(model: GPT, tokens: Tensor) -> None:
    """Loss, gradient of every parameter, packed documents and decoding, for all kernels that can compute the model."""
    length, size = decoding_sizes(model)
    long, documents = rows(2, length), (torch.arange(CONTEXT) // 5).expand(2, -1)
    expected: dict[str, Tensor] = {}
    for option, kernel in sorted(kernels(model).items(), key=lambda item: item[0] != "reference"):
        model.use_kernel(kernel)
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
    """The kernels that can compute a model on a CPU."""
    kernels_by_option = {
        o: part(yaml("kernel", o), model.shape, attention_of(model).demands) for o in options("kernel")
    }
    layers = list(zip(model.windows, model.layer_pos, strict=True))
    return {
        o: kernel
        for o, kernel in kernels_by_option.items()
        if not any(kernel.rejects(*layer, "cpu") for layer in layers)
    }


def state_dict_restores_the_model(model: GPT, tokens: Tensor) -> None:
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert set(state) == {key for key, _ in model.named_parameters()}, "a key occurs twice or is no parameter"
    with torch.no_grad():
        before = model(tokens[:, :-1])
        randomise(model, seed=1)
        assert not torch.allclose(model(tokens[:, :-1]), before)
        model.load_state_dict(state)
        assert torch.equal(model(tokens[:, :-1]), before)


def the_order_of_earlier_tokens_changes_the_logits(model: GPT, tokens: Tensor) -> None:
    """True without an encoding too: after the first layer, tokens differ by the tokens that are visible to them."""
    row = tokens[:1, :CONTEXT]
    swapped = row.clone()
    swapped[0, [-2, -3]] = row[0, [-3, -2]]
    with torch.no_grad():
        assert (model(swapped)[0, -1] - model(row)[0, -1]).abs().max() > 1e-6


def relative_encodings_are_invariant_to_shifted_positions(model: GPT, tokens: Tensor) -> None:
    """Compare a layer's output before and after a shift of all positions that does not change the window's mask."""
    model.train(False)
    for layer, (window, pos) in enumerate(zip(model.windows, model.layer_pos, strict=True)):
        outputs, masks = [], []
        for shift in (0, 4 * SIZE * CONTEXT):
            at = torch.arange(CONTEXT)[None] + shift
            where = Where(at, at)
            view = LayerView(pos, model.kernel, pos.table(at), model.kernel.mask(where, window, pos))
            with torch.no_grad():
                x = model.embed(tokens[:1, :CONTEXT])
                outputs.append(model.blocks[layer].attention(x, view, keep_nothing))
            masks.append(visible(where, window.allows))
        if pos.max_length is None and torch.equal(*masks):
            same = (outputs[0] - outputs[1]).abs().max()
            assert same < 1e-8 if pos.relative or only_embeds(pos) else same > 1e-8


def only_embeds(pos: PositionalEncoding) -> bool:
    """Whether an encoding changes the embeddings only."""
    return pos.embeds and type(pos).rotate is PositionalEncoding.rotate and not pos.biased


def cost_equals_measurement(model: GPT, tokens: Tensor) -> None:
    """Compare FLOPs with torch's counter, which counts all T x T pairs where `cost` counts the visible ones, and the
    cache size with the ring buffers after one row."""
    price = cost(model, torch.float64)
    model.use_kernel(kernels(model)["reference"])
    row = tokens[:1]
    with FlopCounterMode(display=False) as counter:
        model(row[:, :-1], row[:, 1:]).backward()
    model.zero_grad()
    hidden = [int((~visible(Where.rows(CONTEXT), window.allows)).sum()) for window in model.windows]
    widths = [block.attention.macs_per_pair for block in model.blocks]
    surplus = sum(width * pairs for width, pairs in zip(widths, hidden, strict=True))
    shared = {(w, p): pairs for w, p, pairs in zip(model.windows, model.layer_pos, hidden, strict=True)}
    surplus += sum(pos.macs_per_pair * pairs for (_, pos), pairs in shared.items())
    assert abs(counter.get_total_flops() - 6 * surplus - CONTEXT * price.flops_per_token) <= CONTEXT / 2, "rounding"
    nbytes = decode(model, tokens[:1, :CONTEXT], [1] * CONTEXT, CONTEXT)[1].nbytes()
    assert price.kv_bytes_per_token == nbytes / CONTEXT
    assert price.n_params == sum(value.numel() for value in model.state_dict().values())


PROOFS: tuple[Callable[[GPT, Tensor], None], ...] = (
    logits_do_not_depend_on_later_tokens,
    influence_is_exactly_what_the_windows_allow,
    every_parameter_has_a_gradient,
    decoding_in_chunks_equals_the_full_forward,
    packed_documents_equal_separate_rows,
    every_kernel_equals_the_reference,
    state_dict_restores_the_model,
    the_order_of_earlier_tokens_changes_the_logits,
    relative_encodings_are_invariant_to_shifted_positions,
    cost_equals_measurement,
)


def prove(model: GPT, tokens: Tensor) -> None:
    kernel = model.kernel
    for proof in PROOFS:
        model.use_kernel(kernel)
        try:
            proof(model, tokens)
        except Exception as error:
            error.add_note(f"the proof: {proof.__name__}")
            raise
