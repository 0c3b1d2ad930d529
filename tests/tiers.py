"""Which cases of a parametrized test run in the first tier."""

from collections.abc import Sequence
from typing import Any

import pytest


def some(cases: Sequence[Any], *first: Any) -> list[Any]:
    """All cases; those that are not in ``first`` are marked ``full``."""
    assert set(first) <= set(cases)
    return [case if case in first else pytest.param(case, marks=pytest.mark.full) for case in cases]
