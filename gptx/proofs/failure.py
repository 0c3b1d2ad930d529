"""The error of a model that lacks a property, and comparisons that raise it."""

import torch
from torch import Tensor


class PropertyFailed(Exception):
    """A model lacks a property that every variant must have. The message names the position or the parameter."""


def require(holds: bool | Tensor, failure: str) -> None:
    """Raise `PropertyFailed` with the text ``failure`` unless a condition holds."""
    if not holds:
        raise PropertyFailed(failure)


def tolerance(values: Tensor) -> float:
    """The largest difference from ``values`` that rounding explains: 1e-10 (float32: 1e-4) times the largest value, if
    that is above 1."""
    relative = 1e-10 if values.dtype == torch.float64 else 1e-4
    return relative * max(1.0, float(values.detach().abs().max()))


def require_equal(found: Tensor, expected: Tensor, failure: str, limit: float | None = None) -> None:
    """Raise `PropertyFailed` unless two tensors of one shape are equal up to rounding.

    Args:
        failure: the beginning of the message; the largest difference and its place follow.
        limit: the largest difference that is allowed; None: `tolerance`.
    """
    require(found.shape == expected.shape, f"{failure}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    difference = (found - expected).detach().abs()
    largest = float(difference.max())
    if largest <= (tolerance(expected) if limit is None else limit):  # false for nan
        return
    index = [int(i) for i in torch.unravel_index(difference.nan_to_num(torch.inf).argmax(), difference.shape)]
    raise PropertyFailed(f"{failure}: largest difference {largest:.2g}, at index {index}")
