"""What a model costs, from its parts alone: parameters, FLOPs per token, cache bytes per token."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptx.attention.base import Attention
from gptx.ffn.base import FFN
from gptx.geometry.visibility import Where, visible
from gptx.kernel.base import Kernel, Score
from gptx.model.cache import KVCache
from gptx.model.gpt import GPT
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


@dataclass(frozen=True)
class Cost:
    """Attributes:
    n_params: every number that is learned, counted once.
    flops_per_token: of one training step, forward and backward, per token; a multiply-add is two. Windows count:
        only visible pairs do.
    kv_bytes_per_token: cache held after ``context`` tokens, divided by them: what a window bounds gets cheaper.
    """

    n_params: int
    flops_per_token: int
    kv_bytes_per_token: float


def cost(model: GPT, dtype: torch.dtype) -> Cost:
    """The cost of a model at its trained context; ``dtype`` is what it computes in. Works on the meta device."""
    return Cost(
        n_params=n_params(model),
        flops_per_token=flops_per_token(model),
        kv_bytes_per_token=cache_bytes(model, dtype) / model.shape.context,
    )


def n_params(model: GPT) -> int:
    """Every number that is learned, counted once."""
    return sum(p.numel() for p in model.parameters())


def flops_per_token(model: GPT) -> int:
    """Of one training step; forward and backward are three times the forward."""
    return round(3 * 2 * (matmul_params(model) + pair_products(model)))


def matmul_params(model: GPT) -> int:
    """Multiply-adds that one token costs in matrix products with weights, the output layer among them."""
    linear = sum(m.weight.numel() for m in model.blocks.modules() if isinstance(m, nn.Linear))
    other = sum(m.matmul_weights for m in model.blocks.modules() if isinstance(m, FFN))
    return linear + other + model.embed.weight.numel()  # the output layer, tied or not, is as large


def pair_products(model: GPT) -> float:
    """Multiply-adds that one token costs in attention, on average over a row of ``context`` tokens.

    A bias made of matrix products is made once a forward for all layers that share it, and counted for one row.
    """
    pairs = {window: _visible_pairs(window, model.shape.context) for window in set(model.windows)}
    widths = [m.pair_width for m in model.modules() if isinstance(m, Attention)]
    attended = sum(w * pairs[window] for w, window in zip(widths, model.windows, strict=True))
    biased = sum(
        pos.pair_width * pairs[window] for window, pos in set(zip(model.windows, model.layer_pos, strict=True))
    )
    return (attended + biased) / model.shape.context


def _visible_pairs(window: Window, context: int, chunk: int = 1024) -> int:
    """(query, key) pairs that are visible in one row; counted a chunk of queries at a time."""
    keys = torch.arange(context, device="cpu")[None]
    rows = (Where(queries[None], keys) for queries in keys[0].split(chunk))
    return sum(int(visible(where, window.allows).sum()) for where in rows)


def cache_bytes(model: GPT, dtype: torch.dtype) -> int:
    """What a model that computes in ``dtype`` holds in its cache after one row of ``context`` tokens: a forward on the
    meta device, without a kernel, because not every one can run there, and none of them changes what is kept."""
    cache, kernel = KVCache(model.shape.context), model.kernel
    ghosts = {name: torch.empty_like(p, dtype=dtype, device="meta") for name, p in model.named_parameters()}
    ghosts |= {name: buffer.to("meta") for name, buffer in model.named_buffers()}
    tokens = torch.zeros(1, model.shape.context, dtype=torch.long, device="meta")
    model.kernel = Blank(model.shape, frozenset())
    try:
        with torch.no_grad():
            torch.func.functional_call(model, ghosts, (tokens,), {"memory": cache})
    finally:
        model.kernel = kernel
    return cache.nbytes()


class Blank(Kernel):
    """Computes nothing, in the right shape."""

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        return None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        return q.new_empty(*q.shape[:3], v.shape[-1])
