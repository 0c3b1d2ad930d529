"""Which cases of a parametrized test run in the first tier."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest


def some(cases: Sequence[Any], *first: Any) -> list[Any]:
    """All cases; those that are not in ``first`` are marked ``full``."""
    assert set(first) <= set(cases)
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    marks = [() if case in first else pytest.mark.full for case in cases]
    return [pytest.param(*value, marks=mark) for value, mark in zip(values, marks, strict=True)]


def every_option(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    """All pairs of two lists of options. The first tier has each option of both at least once: the options of the
    shorter list are assigned in turn to those of the longer one."""
    first = ((one[i % len(one)], other[i % len(other)]) for i in range(max(len(one), len(other))))
    return some(list(product(one, other)), *first)
