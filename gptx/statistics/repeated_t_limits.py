"""Limits for a t statistic that is looked at again and again while observations come in (a group sequential t test).

n independent normal observations with mean 0 and any spread have the t statistic T_n = sqrt(n) mean / sd. With
U_n = T_n / sqrt(T_n**2 + n - 1), the cosine between the observations and the constant vector,

    U_{n+1} = (sqrt(n) U_n sqrt(1 - B**2) + B) / sqrt(n + 1),    B = x_{n+1} / sqrt(x_1**2 + ... + x_{n+1}**2),

where B is independent of U_1, ..., U_n, because the direction of a normal vector is independent of its length, and
sqrt(n) B / sqrt(1 - B**2) has a t distribution with n degrees of freedom. So U is a Markov chain whose distribution
does not depend on the spread, and the probability of crossing a limit follows by the recursion of Armitage, McPherson
and Rowe (1969), exactly up to the width of a grid. So the limits account exactly for the estimated spread.
"""

import math
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_BINS = 400  # of the grid over abs(U); 1600 bins change a limit by less than 0.1 %
_TABLE = 20_001  # angles at which the tail of the t distribution is tabulated


class Spending(StrEnum):
    """How much of the alpha the looks up to a fraction of the planned observations may use (Lan and DeMets 1983)."""

    OBRIEN_FLEMING = "obrien_fleming"
    POCOCK = "pocock"

    def spent(self, alpha: float, fraction: float) -> float:
        """The part of a two-sided ``alpha`` that is used up at ``fraction``, 0 to 1, of the planned observations."""
        from scipy.stats import norm

        if self is Spending.POCOCK:
            return alpha * math.log(1 + (math.e - 1) * fraction)
        return float(2 * norm.sf(norm.isf(alpha / 2) / math.sqrt(fraction)))


@lru_cache(maxsize=64)
def repeated_t_limits(
    first: int, last: int, alpha: float, spending: Spending = Spending.OBRIEN_FLEMING, bins: int = _BINS
) -> tuple[float, ...]:
    """The limits on abs(T_n) for n = first, ..., last, one look after each observation. If the true mean is 0, abs(T_n)
    exceeds any of them with probability ``alpha``.

    Args:
        first: observations at the first look, at least 2.
        last: observations at the last look, fixed in advance.
        alpha: two-sided.
        bins: of the grid.

    Raises:
        ValueError: the numbers of observations or the alpha make no sense.
    """
    from scipy.optimize import brentq

    if not 2 <= first <= last or not 0 < alpha < 1:
        raise ValueError(f"first={first}, last={last}, alpha={alpha}: expected 2 <= first <= last and 0 < alpha < 1")
    spent = [spending.spent(alpha, n / last) for n in range(first, last + 1)]
    limit = _first_limit(spent[0], first - 1)
    limits, edges = [limit], np.linspace(0, limit, bins + 1)
    masses = -np.diff(2 * _upper_tail(first - 1)(edges))
    for n, before, after in zip(range(first, last), spent, spent[1:], strict=False):
        angles, exact = (edges[1:] + edges[:-1]) / 2, _upper_tail(n)

        def excess(limit: float, n: int = n, angles: Array = angles, masses: Array = masses) -> float:
            crossing = masses @ _crossing(np.array([limit]), angles, n, exact)[:, 0]  # noqa: B023
            return float(crossing) - (after - before)  # noqa: B023

        limit = brentq(excess, 0, math.pi / 2, xtol=1e-14)
        limits.append(limit)
        edges = np.linspace(0, limit, bins + 1)
        masses = -np.diff(masses @ _crossing(edges, angles, n, _tabulated(exact)))
    return tuple(math.sqrt(n - 1) * math.tan(limit) for n, limit in enumerate(limits, first))


Tail = Callable[[Array], Array]


def _first_limit(alpha: float, df: int) -> float:
    """The angle beyond which a t statistic with ``df`` degrees of freedom is with probability ``alpha``."""
    from scipy.stats import t

    return math.atan(t.isf(alpha / 2, df) / math.sqrt(df))


def _upper_tail(df: int) -> Tail:
    """P(angle > x), where sqrt(df) tan(angle) has a t distribution with ``df`` degrees of freedom."""
    from scipy.special import stdtr

    def tail(x: Array) -> Array:
        inside = np.clip(x, -math.pi / 2, math.pi / 2)
        return np.where(x >= math.pi / 2, 0.0, stdtr(df, -math.sqrt(df) * np.tan(inside)))

    return tail


def _tabulated(tail: Tail) -> Tail:
    """The tail by linear interpolation, with an error below 1e-8."""
    angles = np.linspace(-math.pi / 2, math.pi / 2, _TABLE)
    values = tail(angles)
    return lambda x: np.interp(x, angles, values)


def _crossing(limits: Array, angles: Array, n: int, tail: Tail) -> Array:
    """P(abs(U_{n+1}) > sin limit | U_n = sin angle) for every angle (rows) and limit (columns), both 0 to pi/2.

    With B = sin b, U_{n+1} sqrt(n+1) = a sin(b + p), where a**2 = 1 + n U_n**2 and tan p = sqrt(n) U_n.
    """
    u = np.sin(angles)[:, None]
    shift = np.arctan(math.sqrt(n) * u)
    ratio = math.sqrt(n + 1) * np.sin(limits)[None, :] / np.sqrt(1 + n * u * u)
    bound = np.arcsin(np.minimum(ratio, 1.0))
    above = tail(bound - shift) - tail(math.pi - bound - shift)
    return above + tail(bound + shift)
