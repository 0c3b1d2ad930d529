"""Simultaneous intervals of contrasts between arms: pooled, or paired t with Bonferroni where the spread is unequal.

The rule is fixed beforehand and looks at residuals alone. The differences of a contrast within its complete seeds
have a sum of squares that is a part of the residual sum of squares of the model. If all arms have the same spread,
its share has a beta distribution with (n - 1) / 2 and (df - n + 1) / 2 degrees of freedom, in unbalanced designs too
(the F test of Chow 1960 for additional observations). The rule fires if the largest share of a family is improbable:
below ``SPREAD_LEVEL``, Bonferroni over the contrasts. It has one side, because only a contrast that varies more than
the pooled spread predicts makes an interval too short. Under equal spread and normal errors the shares are
independent of the estimates and of the pooled spread, so looking at them does not change the level of the pooled
intervals.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache

import numpy as np

from gptx.statistics.block_model import BlockModel, Bools, Floats
from gptx.statistics.simultaneous import bonferroni_value, correlation_of, critical_value

SPREAD_LEVEL = 0.2


class Method(StrEnum):
    """How the intervals of a family were made."""

    POOLED = "pooled spread, multivariate t"
    PAIRED = "paired t, Bonferroni"
    NONE = "no interval"


@dataclass(frozen=True, kw_only=True, eq=False)
class ContrastIntervals:
    """Estimates, standard errors and half widths have the shape (contrasts, data sets), NaN where there is none."""

    estimates: Floats
    errors: Floats
    half_widths: Floats
    paired: Bools
    """Of shape (data sets,): whether the spread is unequal, so that the intervals are paired ones."""
    deviations: Floats
    """Of shape (data sets,): the residual standard deviation of the model."""


@dataclass(frozen=True, eq=False)
class ContrastFamily:
    """Contrasts with simultaneous intervals: ``weights`` of shape (contrasts, arms), whose rows sum to 0."""

    model: BlockModel
    weights: Floats
    level: float = 0.95

    @cached_property
    def estimable(self) -> Bools:
        return self.model.estimable(self.weights)

    @cached_property
    def covariance(self) -> Floats:
        """The covariance of the estimable contrasts, in units of the residual variance."""
        return self.model.covariance(self.weights[self.estimable])

    @cached_property
    def pooled_value(self) -> float:
        """The critical value of the pooled intervals; needs residual degrees of freedom and an estimable contrast."""
        return critical_value(correlation_of(self.covariance), self.model.df, self.level)

    @cached_property
    def complete_seeds(self) -> list[int]:
        """The number of complete seeds of each contrast."""
        return [int(self.model.complete(row).sum()) for row in self.weights]

    @property
    def paired_count(self) -> int:
        """The number of contrasts that have a paired interval."""
        return sum(n >= 2 for n in self.complete_seeds)

    @cached_property
    def has_intervals(self) -> bool:
        """Whether there is a residual degree of freedom and an estimable contrast."""
        return bool(self.model.df and self.estimable.any())

    def intervals(self, values: Floats) -> ContrastIntervals:
        """The intervals of data sets: ``values`` has the shape (runs, data sets)."""
        shape = (len(self.weights), values.shape[1])
        estimates, errors, half = (np.full(shape, np.nan) for _ in range(3))
        estimates[self.estimable] = self.model.estimate(self.weights[self.estimable], values)
        paired, deviations = np.zeros(shape[1], dtype=bool), np.full(shape[1], np.nan)
        if self.has_intervals:
            squares = self.model.residual_squares(values)
            deviations = np.sqrt(squares / self.model.df)
            errors[self.estimable] = np.sqrt(np.diag(self.covariance))[:, None] * deviations
            half = self.pooled_value * errors
            paired = self.unequal(values, squares)
        if paired.any():
            estimates[:, paired], errors[:, paired], half[:, paired] = self._paired(values[:, paired])
        return ContrastIntervals(
            estimates=estimates, errors=errors, half_widths=half, paired=paired, deviations=deviations
        )

    def unequal(self, values: Floats, squares: Floats) -> Bools:
        """In which data sets the spread is unequal; ``squares`` are their residual sums of squares."""
        fired = np.zeros(values.shape[1], dtype=bool)
        for row, n in zip(self.weights, self.complete_seeds, strict=True):
            if 2 <= n <= self.model.df:
                differences = self.model.per_seed(row, values)
                own = ((differences - differences.mean(axis=0)) ** 2).sum(axis=0) / (row**2).sum()
                share = own / np.where(squares > 0, squares, np.inf)
                limit = _largest_share(n, self.model.df, SPREAD_LEVEL / self.paired_count)
                fired |= share > limit
        return fired

    def _paired(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Estimates, standard errors and half widths of paired t intervals."""
        shape = (len(self.weights), values.shape[1])
        estimates, errors, half = (np.full(shape, np.nan) for _ in range(3))
        for i, (row, n) in enumerate(zip(self.weights, self.complete_seeds, strict=True)):
            if n >= 2:
                differences = self.model.per_seed(row, values)
                estimates[i] = differences.mean(axis=0)
                errors[i] = differences.std(axis=0, ddof=1) / np.sqrt(n)
                half[i] = bonferroni_value(self.paired_count, n - 1, self.level) * errors[i]
        return estimates, errors, half


@lru_cache(maxsize=4096)
def _largest_share(seeds: int, df: int, level: float) -> float:
    """The share of the residual sum of squares that the differences of a contrast within its seeds exceed with
    probability ``level``."""
    from scipy import stats

    return float(stats.beta.isf(level, (seeds - 1) / 2, (df - seeds + 1) / 2))
