"""Cost of a model, without computing anything: parameters, FLOPs per token, cache bytes per token.

What an attention caches, and what it spends on pairs of tokens, is observed in a forward on the meta device."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gptx.ffn.base import FFN
from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where, visible
from gptx.kernel.base import Kernel
from gptx.model.gpt import GPT
from gptx.model.kv_cache import KVCache
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


@dataclass(frozen=True)
class Cost:
    """Cost of a model at its trained context.

    Attributes:
        n_params: number of learned numbers; tied weights count once.
        flops_per_token: FLOPs of one training step (forward and backward) per token; a multiply-add is two. Only
            visible pairs count, so windows reduce it.
        kv_bytes_per_token: cache size after ``context`` tokens, divided by ``context``; windows reduce it.
    """

    n_params: int
    flops_per_token: int
    kv_bytes_per_token: float


def cost(model: GPT, dtype: torch.dtype) -> Cost:
    """Return the cost of a model that computes in ``dtype``. Works on the meta device."""
    cache, kernel = _dry_forward(model, dtype)
    return Cost(
        n_params=n_params(model),
        flops_per_token=_training_flops(model, kernel.macs),
        kv_bytes_per_token=cache.nbytes() / model.shape.context,
    )


def n_params(model: GPT) -> int:
    """Return the number of learned numbers; tied weights count once."""
    return sum(p.numel() for p in model.parameters())


def flops_per_token(model: GPT) -> int:
    """Return the FLOPs of one training step per token: forward and backward are three times the forward."""
    return _training_flops(model, pair_macs(model))


def _training_flops(model: GPT, macs: Mapping[Window, int]) -> int:
    return round(3 * 2 * (weight_macs(model) + _macs_of_pairs(model, macs)))


def weight_macs(model: GPT) -> int:
    """Return the multiply-adds per token in matrix products with weights, including the output layer."""
    linear = sum(m.weight.numel() for m in model.blocks.modules() if isinstance(m, nn.Linear))
    other = sum(m.macs_per_token for m in model.blocks.modules() if isinstance(m, FFN))
    return linear + other + model.embed.weight.numel()  # the output layer, tied or not, is as large as the embedding


def attention_macs(model: GPT) -> float:
    """Return the multiply-adds per token in attention, averaged over a row of ``context`` tokens.

    A bias that is computed by matrix products is computed once per forward for all layers that share it; it counts for
    one row.
    """
    return _macs_of_pairs(model, pair_macs(model))


def _macs_of_pairs(model: GPT, macs: Mapping[Window, int]) -> float:
    pairs = {window: _visible_pairs(window, model.shape.context) for window in set(model.windows)}
    attention = sum(count * pairs[window] for window, count in macs.items())
    shared = set(zip(model.windows, model.layer_pos, strict=True))
    bias = sum(pos.macs_per_pair * pairs[window] for window, pos in shared)
    return (attention + bias) / model.shape.context


def pair_macs(model: GPT) -> dict[Window, int]:
    """Return the multiply-adds for one (query, visible key) pair, by window: the sum over its layers."""
    return _dry_forward(model, torch.float32)[1].macs


def _visible_pairs(window: Window, context: int, chunk: int = 1024) -> int:
    """Count the visible (query, key) pairs of one row, ``chunk`` queries at a time to limit memory."""
    keys = torch.arange(context, device="cpu")[None]  # (1, T)
    chunks = (Where(queries[None], keys) for queries in keys[0].split(chunk))
    return sum(int(visible(where, window.allows).sum()) for where in chunks)


def cache_bytes(model: GPT, dtype: torch.dtype) -> int:
    """Return the bytes that the cache of a model computing in ``dtype`` holds after one row of ``context`` tokens."""
    return _dry_forward(model, dtype)[0].nbytes()


def _dry_forward(model: GPT, dtype: torch.dtype) -> "tuple[KVCache, CountingKernel]":
    """The cache and the kernel after a forward of one row of ``context`` tokens on the meta device.

    The kernel computes nothing: not every kernel runs there, and no kernel changes what is cached.
    """
    cache, kernel = KVCache(model.shape.context), CountingKernel(model.shape, frozenset())
    weights = {name: torch.empty_like(p, dtype=dtype, device="meta") for name, p in model.named_parameters()}
    weights |= {name: buffer.to("meta") for name, buffer in model.named_buffers()}
    tokens = torch.zeros(1, model.shape.context, dtype=torch.long, device="meta")
    with model.with_kernel(kernel), torch.no_grad():
        torch.func.functional_call(model, weights, (tokens,), {"context": cache})
    return cache, kernel


class CountingKernel(Kernel):
    """Computes nothing; returns uninitialised tensors of the right shape, and counts multiply-adds.

    Attributes:
        macs: multiply-adds for one (query, key) pair in q k^T and in the product with v, by window: the sum over the
            calls of its layers.
    """

    def __init__(self, shape: ModelShape, demands: frozenset[str]) -> None:
        super().__init__(shape, demands)
        self.macs: dict[Window, int] = {}

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> Window:
        return window

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, Window)
        self.macs[mask] = self.macs.get(mask, 0) + q.shape[2] * (q.shape[3] + v.shape[3])
        return q.new_empty(*q.shape[:3], v.shape[-1])
