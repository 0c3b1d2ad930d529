"""Which tokens may influence a prediction: none of the future, none of another row, and those of the windows.

Letters: B batch, T time, V vocabulary.
"""

import torch
from torch import Tensor

from gptx.attention.base import Attention
from gptx.geometry.visibility import Where, visible
from gptx.model.gpt import GPT
from gptx.proofs.failure import require, tolerance
from gptx.proofs.small_model import VOCAB


def logits_do_not_depend_on_later_tokens(model: GPT, tokens: Tensor) -> None:
    """In eval mode and in training mode. A token changes its own logits."""
    row = tokens[:1, :-1]
    later = torch.ones(row.shape[1], row.shape[1], dtype=torch.long).triu(1)
    changed = (row + later) % VOCAB  # row t of the batch: all tokens after t differ
    with torch.no_grad():
        difference = (model(changed) - model(row)).abs().amax(-1)  # (T, T): [t, q] of query q
    _no_influence(difference, tolerance(model(row)))
    own = difference.diagonal(1)
    require(own.min() > 1e-3, f"a changed token does not change its own logits, at position {int(own.argmin()) + 1}")
    _no_influence(_difference_in_training(model, row, changed), tolerance(model(row)))


def _difference_in_training(model: GPT, row: Tensor, changed: Tensor) -> Tensor:
    """(T, T) as in eval mode. Each row alone and with the same seed, so that all rows draw the same random numbers."""
    before = model.training
    model.train()
    try:
        logits, *others = (_seeded_logits(model, one) for one in (row, *changed.split(1)))
    finally:
        model.train(before)
    return (torch.cat(others) - logits).abs().amax(-1)


def _seeded_logits(model: GPT, row: Tensor) -> Tensor:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        logits: Tensor = model(row)
        return logits


def _no_influence(difference: Tensor, limit: float) -> None:
    """Check that query q has no difference in row t, where all tokens after t >= q differ."""
    wrong = (difference.tril() > limit) | difference.isnan()
    if wrong.any():
        t, q = (int(i) for i in wrong.nonzero()[0])
        require(
            False,
            f"the logits at position {q} change by {float(difference[t, q]):.2g} when only tokens after position {t} "
            "change: they depend on the future",
        )


def rows_of_a_batch_are_independent(model: GPT, tokens: Tensor) -> None:
    """The logits of a row are the same beside any other row, in eval mode and in training mode."""
    one, other = tokens[:1, :-1], (tokens[1:2, :-1] + 1) % VOCAB
    before = model.training
    try:
        for training in (False, True):
            model.train(training)
            first = _seeded_logits(model, torch.cat([one, other]))[0]
            second = _seeded_logits(model, torch.cat([one, (other + 1) % VOCAB]))[0]
            difference = (first - second).abs().amax(-1)
            require(
                difference.max() <= tolerance(first),
                f"the logits at position {int(difference.argmax())} change by {float(difference.max()):.2g} when only "
                "another row of the batch changes",
            )
    finally:
        model.train(before)


def influence_is_exactly_what_the_windows_allow(model: GPT, tokens: Tensor) -> None:
    """Over all layers: the visible tokens of the windows and no others have a gradient."""
    length = tokens.shape[1] - 1
    found, expected = influence(model, tokens[:1, :-1]), torch.eye(length)
    for window in model.windows:
        expected = influencing_keys(model, visible(Where.rows(length), window.allows)[0]).float() @ expected
    wrong = (found > 1e-12) != (expected > 0)
    if wrong.any():
        q, k = (int(i) for i in wrong.nonzero()[0])
        verb = "has no" if expected[q, k] > 0 else "has an"
        require(False, f"the token at position {k} {verb} influence on position {q}; the windows say otherwise")
    reaches = [window.reach for window in model.windows]
    bound = sum(reach - 1 for reach in reaches if reach is not None) if None not in reaches else length
    distance = torch.arange(length)[:, None] - torch.arange(length)
    require((found[distance > bound] < 1e-12).all(), f"a token has influence beyond the reach of the windows, {bound}")


def influence(model: GPT, row: Tensor) -> Tensor:
    """(T, T): norm of the gradient of the logits at q with respect to the embedding of token k."""
    length = row.shape[1]
    seen: list[Tensor] = []
    hook = model.embed.register_forward_hook(lambda module, given, out: seen.append(out))
    logits = model(row.expand(length, -1))
    hook.remove()
    weights = torch.randn(VOCAB, dtype=logits.dtype, generator=torch.Generator().manual_seed(1))
    score = (logits[torch.arange(length), torch.arange(length)] @ weights).sum()
    gradient: Tensor = torch.autograd.grad(score, seen[0])[0]
    norms: Tensor = gradient.norm(dim=-1)
    return norms


def influencing_keys(model: GPT, seen: Tensor) -> Tensor:
    """(T, T): the keys whose tokens influence a query in one layer. With decay, these are also the tokens between a
    visible key and the query: their gates contribute to the decay."""
    if "decay" not in attention_of(model).demands:
        return seen
    return seen.cummax(dim=1).values.tril()


def attention_of(model: GPT) -> Attention:
    """The attention of the first layer."""
    found = model.blocks[0].attention
    assert isinstance(found, Attention)
    return found
