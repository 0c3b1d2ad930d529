"""The probability of a verdict, and the seeds that a verdict needs.

A difference is estimated from n seeds with the standard error ``deviation / sqrt(n)``, where ``deviation`` is the
standard deviation of the difference at one seed. Given the estimated spread s, both limits of the interval are
normal, so each probability is an integral over the distribution of s alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gptx.statistics.contrast_intervals import UNPOOLED_RATE
from gptx.statistics.simultaneous import (
    Floats,
    bonferroni_value,
    deviation_nodes,
    dunnett_value,
)

POWER = 0.8
SPREAD_CONFIDENCE = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True, kw_only=True)
class SeedsNeeded:
    """Seeds per arm, in total, for a verdict with 80 % power. Nothing: more than 1000."""

    if_margin: int | None
    """If the true difference is the margin: to find it better or worse."""
    if_zero: int | None
    """If the true difference is zero: to find it equivalent."""


@dataclass(frozen=True)
class SeedPlan:
    """What more seeds would give: degrees of freedom and critical value of n seeds per arm, for one contrast.

    ``deviation``: the standard deviation of the difference at one seed.
    """

    deviation: float
    df: Callable[[int], float]
    value: Callable[[int], float]
    fallback: "SeedPlan | None" = None
    """Paired intervals. If the spread is equal, the rule for unequal spread fires with probability ``UNPOOLED_RATE``,
    and then nearly all intervals are as wide as these."""

    def different(self, difference: float, margin: float, seeds: int) -> float:
        """The probability that the verdict is better or worse, on the side of the true ``difference``."""
        other = self.fallback.different(difference, margin, seeds) if self.fallback else None
        return self._mixed(self._different(difference, margin, seeds), other)

    def equivalent(self, difference: float, margin: float, seeds: int) -> float:
        """The probability that the verdict is equivalent."""
        other = self.fallback.equivalent(difference, margin, seeds) if self.fallback else None
        return self._mixed(self._equivalent(difference, margin, seeds), other)

    def _mixed(self, probability: float, fallback: float | None) -> float:
        return probability if fallback is None else (1 - UNPOOLED_RATE) * probability + UNPOOLED_RATE * fallback

    def _different(self, difference: float, margin: float, seeds: int) -> float:
        error, half, weights = self._half_widths(seeds)
        beyond_zero, beyond_margin = half - abs(difference) / error, (margin - abs(difference)) / error - half
        return float(weights @ _above(np.maximum(beyond_zero, beyond_margin)))  # inside the margin: equivalent

    def _equivalent(self, difference: float, margin: float, seeds: int) -> float:
        error, half, weights = self._half_widths(seeds)
        reach = np.maximum(margin / error - half, 0)
        inside = _above(-reach - difference / error) - _above(reach - difference / error)
        return float(weights @ inside)

    def seeds_needed(self, margin: float) -> SeedsNeeded:
        """Seeds for 80 % power; ``margin`` is positive."""
        return SeedsNeeded(
            if_margin=_fewest(lambda n: self.different(margin, margin, n)),
            if_zero=_fewest(lambda n: self.equivalent(0.0, margin, n)),
        )

    def visible_difference(self, seeds: int) -> float:
        """The smallest true difference that these seeds find better or worse with 80 % power, without a margin."""
        from scipy import optimize

        scale = self.deviation / np.sqrt(seeds) * self.value(seeds)
        if scale == 0:
            return 0.0
        return float(optimize.brentq(lambda d: self.different(d, 0.0, seeds) - POWER, 0, 1000 * scale))

    def _half_widths(self, seeds: int) -> tuple[float, Floats, Floats]:
        """The true standard error, half widths in units of it, and their weights."""
        spread, weights = deviation_nodes(self.df(seeds))
        return max(self.deviation / np.sqrt(seeds), 1e-300), self.value(seeds) * spread, weights


def pooled_plan(residual_deviation: float, arms: int, level: float = 0.95, *, all_pairs: bool = False) -> SeedPlan:
    """A comparison without missing runs of ``arms`` arms, the baseline included: pooled spread.

    All pairs take Bonferroni's critical value, which is a little too large and quick to compute for many numbers of
    seeds.
    """
    contrasts = arms * (arms - 1) // 2 if all_pairs else arms - 1
    deviation = float(np.sqrt(2) * residual_deviation)

    def df(seeds: int) -> float:
        return (arms - 1) * (seeds - 1)

    def value(seeds: int) -> float:
        of_family = bonferroni_value if all_pairs else dunnett_value
        return of_family(contrasts, df(seeds), level)

    return SeedPlan(deviation, df, value, paired_plan(deviation, contrasts, level) if arms > 2 else None)


def paired_plan(difference_deviation: float, contrasts: int, level: float = 0.95) -> SeedPlan:
    """Paired t with Bonferroni over ``contrasts``; the standard deviation is the one of the paired differences."""
    return SeedPlan(difference_deviation, lambda n: n - 1, lambda n: bonferroni_value(contrasts, n - 1, level))


def upper_deviation(deviation: float, df: float) -> float:
    """The upper 80 % confidence limit of a standard deviation that was estimated with ``df`` degrees of freedom."""
    from scipy import stats

    return deviation * float(np.sqrt(df / stats.chi2.ppf(1 - SPREAD_CONFIDENCE, df)))


def _above(z: Floats) -> Floats:
    from scipy.special import ndtr

    return np.asarray(ndtr(-z))


def _fewest(power: Callable[[int], float]) -> int | None:
    """The fewest seeds, from 2 on, whose power suffices; the power grows with the seeds."""
    low, high = 1, 2
    while power(high) < POWER:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high if high <= MOST_SEEDS else None
