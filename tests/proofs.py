"""What every combination of variants has to stand, in float64. A proof is a function of a random tiny model.

What a variant claims of itself (its window's reach, that an encoding is relative, what a kernel refuses) is held
against what it does.
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
from gptx.kernel import chunks
from gptx.kernel.base import Kernel
from gptx.model.cache import KVCache, keep_nothing
from gptx.model.cost import cost
from gptx.model.gpt import GPT
from gptx.model.layer_view import LayerView
from gptx.pos.base import PositionalEncoding

LONG = 3 * CONTEXT


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
    for cuts in ([1] * length, [CONTEXT // 2, 1, 1, length - CONTEXT // 2 - 2]):
        logits, cache = decode(model, tokens, cuts, size)
        torch.testing.assert_close(logits, whole, rtol=0, atol=1e-10)
        assert cache.length == length
        for layer, window in enumerate(model.windows):
            expected = size if window.reach is None else min(size, window.reach)
            assert all(ring.shape[1] == expected for ring in cache.rings[layer])


def decode(model: GPT, tokens: Tensor, cuts: list[int], size: int) -> tuple[Tensor, KVCache]:
    """Logits of ``tokens`` given chunk by chunk."""
    cache = KVCache(size)
    with torch.no_grad():
        logits = torch.cat([model(chunk, context=cache) for chunk in tokens.split(cuts, dim=1)], dim=1)
    return logits, cache


def room(model: GPT) -> tuple[int, int]:
    """How many tokens to decode, and the cache for them."""
    length = LONG if model.pos.max_length is None else min(LONG, model.pos.max_length)
    bounded = all(window.reach is not None for window in model.windows)
    return length, max(CONTEXT, *(window.reach or 0 for window in model.windows)) if bounded else length


def packed_documents_equal_separate_rows(model: GPT, tokens: Tensor) -> None:
    row, ends = tokens[:, :CONTEXT], [0, 1, 7, CONTEXT]
    documents = torch.cat([torch.full((2, b - a), n % 2) for n, (a, b) in enumerate(pairwise(ends))], 1)
    documents[1] = documents[1].flip(0)  # the second row is cut elsewhere; ids come back, of other documents
    cuts = [ends, [CONTEXT - end for end in reversed(ends)]]
    with torch.no_grad():
        packed = model(row, documents=documents)
        for one, text, places in zip(packed, row, cuts, strict=True):
            alone = torch.cat([model(text[None, a:b])[0] for a, b in pairwise(places)])
            torch.testing.assert_close(one, alone, rtol=0, atol=1e-11)


@patch.multiple(chunks, SMALLEST=2, LARGEST=4)  # so that a short row is several chunks
def every_kernel_equals_the_reference(model: GPT, tokens: Tensor) -> None:
    """Loss, gradient of every parameter, packed documents and decoding, for all kernels that do not refuse."""
    length, size = room(model)
    long, documents = rows(2, length), (torch.arange(CONTEXT) // 5).expand(2, -1)
    expected: dict[str, Tensor] = {}
    for option in sorted(kernels(model), key=lambda option: option != "reference"):
        model.use_kernel(kernels(model)[option])
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
            view = LayerView(pos, model.kernel, pos.table(at), model.kernel.mask(where, window, pos))
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
    model.use_kernel(kernels(model)["reference"])
    row = tokens[:1]
    with FlopCounterMode(display=False) as counter:
        model(row[:, :-1], row[:, 1:]).backward()
    model.zero_grad()
    hidden = [int((~visible(Where.rows(CONTEXT), window.allows)).sum()) for window in model.windows]
    widths = [block.attention.macs_per_pair for block in model.blocks]
    surplus = sum(width * pairs for width, pairs in zip(widths, hidden, strict=True))
    rooms = {(w, p): pairs for w, p, pairs in zip(model.windows, model.layer_pos, hidden, strict=True)}
    surplus += sum(pos.macs_per_pair * pairs for (_, pos), pairs in rooms.items())
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
        model.use_kernel(kernel)
        try:
            proof(model, tokens)
        except Exception as error:
            error.add_note(f"the proof: {proof.__name__}")
            raise
