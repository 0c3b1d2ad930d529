"""What positional encodings declare of themselves is true."""

import torch
from torch import Tensor

from gptx.geometry.visibility import Where, visible
from gptx.model.gpt import GPT
from gptx.model.kv_cache import keep_nothing
from gptx.model.layer_view import LayerView
from gptx.pos.base import PositionalEncoding
from gptx.proofs.failure import require
from gptx.proofs.small_model import CONTEXT, WINDOW


def the_order_of_earlier_tokens_changes_the_logits(model: GPT, tokens: Tensor) -> None:
    """True without an encoding too: after the first layer, tokens differ by the tokens that are visible to them."""
    row = tokens[:1, :CONTEXT]
    swapped = row.clone()
    swapped[0, [-2, -3]] = row[0, [-3, -2]]
    with torch.no_grad():
        difference = (model(swapped)[0, -1] - model(row)[0, -1]).abs().max()
    require(difference > 1e-6, "two exchanged tokens do not change the logits of a later one")


def relative_encodings_are_invariant_to_shifted_positions(model: GPT, tokens: Tensor) -> None:
    """Compare a layer's output before and after a shift of all positions that does not change the window's mask."""
    for layer, (window, pos) in enumerate(zip(model.windows, model.layer_pos, strict=True)):
        places = [torch.arange(CONTEXT)[None] + shift for shift in (0, 4 * WINDOW * CONTEXT)]
        masks = [visible(Where(at, at), window.allows) for at in places]
        if pos.max_length is not None or not torch.equal(*masks):
            continue
        first, second = (_attention_output(model, layer, tokens, at) for at in places)
        same = float((first - second).abs().max())
        if pos.relative or only_embeds(pos):
            require(same < 1e-8, f"a relative encoding changes by {same:.2g} when all positions are shifted")
        else:
            require(same > 1e-8, "a shift of all positions changes nothing: declare the encoding as relative")


def _attention_output(model: GPT, layer: int, tokens: Tensor, at: Tensor) -> Tensor:
    """(1, T, D) output of a layer's attention for the embedded tokens at positions (1, T)."""
    pos, where = model.layer_pos[layer], Where(at, at)
    view = LayerView(pos, model.kernel, pos.table(at), model.kernel.mask(where, model.windows[layer], pos))
    with torch.no_grad():
        y: Tensor = model.blocks[layer].attention(model.embed(tokens[:1, :CONTEXT]), view, keep_nothing)  # type: ignore
    return y


def only_embeds(pos: PositionalEncoding) -> bool:
    """Whether an encoding changes the embeddings only."""
    return pos.embeds and type(pos).rotate is PositionalEncoding.rotate and not pos.biased
