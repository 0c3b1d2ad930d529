"""Simultaneous intervals of contrasts between arms: pooled, or otherwise where the spread seems unequal.

The rule is fixed beforehand and looks at residuals alone. If all arms have the same spread, a part of the residual sum
of squares of the model has as its share a beta distribution, in unbalanced designs too (the F test of Chow 1960). Such
parts are, first, the squares of the differences of a contrast within its complete seeds, and second, what vanishes if
an arm is left out. Each test has one side, because only what varies more than the pooled spread predicts makes an
interval too short.

1. The share of a contrast is improbable at ``CONTRAST_LEVEL`` (Bonferroni): all intervals are paired t with
   Bonferroni.
2. Else, the share of an arm is improbable at ``ARM_LEVEL`` (divided in proportion to the contrasts that an arm is in,
   so that a shared baseline gets half of it): each interval is the wider one of pooled and paired, pooled where there
   is no paired one. With few seeds, the first test cannot fire where only the baseline or one of few arms varies much.
3. Else, all intervals are pooled.

If the spread is equal, the shares are independent of the estimates and of the pooled spread. The second choice is never
narrower than the pooled intervals, so it cannot exceed the level; the first does not in simulations.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache

import numpy as np

from gptx.statistics.block_model import BlockModel, Bools, Floats
from gptx.statistics.simultaneous import bonferroni_value, correlation_of, critical_value

CONTRAST_LEVEL = 0.2
ARM_LEVEL = 0.4
UNPOOLED_RATE = 0.45
"""About how often the rule fires if the spread is equal; 40 to 50 % in simulations with 3 to 10 arms and seeds."""


class Method(StrEnum):
    """How the intervals of a family were made."""

    POOLED = "pooled spread, multivariate t"
    PAIRED = "paired t, Bonferroni"
    WIDER = "the wider one of pooled and paired"
    NONE = "no interval"


@dataclass(frozen=True, kw_only=True, eq=False)
class ContrastIntervals:
    """Estimates, standard errors and half widths have the shape (contrasts, data sets), NaN where there is none."""

    estimates: Floats
    errors: Floats
    half_widths: Floats
    paired: Bools
    """Of shape (data sets,): whether the intervals are paired ones, because the spread is clearly unequal."""
    wider: Bools
    """Of shape (data sets,): whether each is the wider one of both, because an arm may vary more than the others."""
    deviations: Floats
    """Of shape (data sets,): the residual standard deviation of the model."""

    @property
    def unpooled(self) -> Bools:
        """Of shape (data sets,): whether the rule for unequal spread has fired."""
        return self.paired | self.wider


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

    @cached_property
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
        paired, wider, deviations = np.zeros(shape[1], bool), np.zeros(shape[1], bool), np.full(shape[1], np.nan)
        if self.has_intervals:
            squares = self.model.residual_squares(values)
            deviations = np.sqrt(squares / self.model.df)
            errors[self.estimable] = np.sqrt(np.diag(self.covariance))[:, None] * deviations
            half = self.pooled_value * errors
            shares = 1 / np.where(squares > 0, squares, np.inf)
            paired = self._contrast_varies(values, shares)
            if self.paired_count:
                wider = self._arm_varies(values, shares) & ~paired
        if (unpooled := paired | wider).any():
            others = self._paired(values[:, unpooled])
            kept = wider[unpooled] & ~(others[2] >= half[:, unpooled])
            for mine, other in zip((estimates, errors, half), others, strict=True):
                mine[:, unpooled] = np.where(kept, mine[:, unpooled], other)
        return ContrastIntervals(
            estimates=estimates, errors=errors, half_widths=half, paired=paired, wider=wider, deviations=deviations
        )

    def _contrast_varies(self, values: Floats, shares: Floats) -> Bools:
        """In which data sets the differences of a contrast vary too much; ``shares``: 1 / residual sums of squares."""
        fired = np.zeros(values.shape[1], dtype=bool)
        for row, n in zip(self.weights, self.complete_seeds, strict=True):
            if 2 <= n <= self.model.df:
                differences = self.model.per_seed(row, values)
                own = ((differences - differences.mean(axis=0)) ** 2).sum(axis=0) / (row**2).sum()
                fired |= own * shares > _largest_share(n - 1, self.model.df, CONTRAST_LEVEL / self.paired_count)
        return fired

    def _arm_varies(self, values: Floats, shares: Floats) -> Bools:
        """In which data sets an arm varies too much."""
        fired = np.zeros(values.shape[1], dtype=bool)
        uses = (self.weights != 0).sum(axis=0)
        residuals = self.model.residuals(values)
        for arm in np.flatnonzero(uses):
            own, df = self.model.arm_part(int(arm), residuals)
            if 0 < df < self.model.df:
                fired |= own * shares > _largest_share(df, self.model.df, ARM_LEVEL * uses[arm] / uses.sum())
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
def _largest_share(part: int, df: int, level: float) -> float:
    """What a part of the residual sum of squares, with ``part`` of ``df`` degrees of freedom, exceeds with probability
    ``level``, as a share."""
    from scipy import stats

    return float(stats.beta.isf(level, part / 2, (df - part) / 2))
