"""Grouped matrix product: one matrix for each group of rows. Mixtures of experts compute their experts with it.

torch's own `grouped_mm` does not support float64, requires rows of a multiple of 16 bytes, has no meta implementation
in fp32 and is not counted by torch's FLOP counter. This one is a loop over the groups inside a custom operator, which
torch.compile does not trace.

Letters: M rows, E groups, D width in, F width out.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


@torch.library.custom_op("gptx::grouped", mutates_args=())
def grouped(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """x (M, D) sorted by group, weight (E, D, F) -> (M, F).

    ``counts`` (E,) are the numbers of rows of the groups. They are on the CPU even if x is not, because the loop would
    otherwise wait for the device.
    """
    out = x.new_empty(x.shape[0], weight.shape[2])
    sizes = counts.tolist()
    for rows, matrix, target in zip(x.split(sizes), weight, out.split(sizes), strict=True):
        torch.mm(rows, matrix, out=target)
    return out


@torch.library.custom_op("gptx::grouped_outer", mutates_args=())
def grouped_outer(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """x (M, D), y (M, F) -> (E, D, F): the gradient of `grouped` with respect to its weight."""
    out = x.new_empty(counts.shape[0], x.shape[1], y.shape[1])
    sizes = counts.tolist()
    for left, right, target in zip(x.split(sizes), y.split(sizes), out, strict=True):
        torch.mm(left.T, right, out=target)
    return out


@grouped.register_fake
def _(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


@grouped_outer.register_fake
def _(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty(counts.shape[0], x.shape[1], y.shape[1])


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _grouped_backward(ctx, gradient):  # type: ignore[no-untyped-def]
    x, weight, counts = ctx.saved_tensors
    return grouped(gradient, weight.mT, counts), grouped_outer(x, gradient, counts), None


def _outer_backward(ctx, gradient):  # type: ignore[no-untyped-def]
    x, y, counts = ctx.saved_tensors
    return grouped(y, gradient.mT, counts), grouped(x, gradient, counts), None


grouped.register_autograd(_grouped_backward, setup_context=_save)
grouped_outer.register_autograd(_outer_backward, setup_context=_save)


@register_flop_formula(torch.ops.gptx.grouped)
def _(x: torch.Size, weight: torch.Size, *rest: object, **named: object) -> int:
    return 2 * x[0] * weight[1] * weight[2]


@register_flop_formula(torch.ops.gptx.grouped_outer)
def _(x: torch.Size, y: torch.Size, *rest: object, **named: object) -> int:
    return 2 * x[0] * x[1] * y[1]
