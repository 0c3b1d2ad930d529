"""Which cases of a parametrized test run in the first tier."""

from collections.abc import Sequence
from typing import Any

import pytest


def some(cases: Sequence[Any], *first: Any) -> list[Any]:
    """All cases; those that are not in ``first`` are marked ``full``."""
    assert set(first) <= set(cases)
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    marks = [() if case in first else pytest.mark.full for case in cases]
    return [pytest.param(*value, marks=mark) for value, mark in zip(values, marks, strict=True)]
