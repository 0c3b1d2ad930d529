"""Differences between variants: ``arm - baseline`` with simultaneous intervals and verdicts.

The estimates come from the model value ~ arm + seed (`gptx.statistics.block_model`), the intervals from
`gptx.statistics.contrast_intervals`, the verdicts from `gptx.statistics.verdict`. docs/statistics.md explains the
choices and shows simulations.

A diverged run is no missing value: it was worse than any finite one. The estimates leave it out, which flatters its
arm. So an arm with a diverged run can be worse, but neither better nor equivalent; compared with a baseline with a
diverged run, an arm can be better, but neither worse nor equivalent; if both have one, the verdict is undecided.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from gptx.errors import GptxError
from gptx.statistics.block_model import BlockModel, Floats
from gptx.statistics.bootstrap import paired_bootstrap
from gptx.statistics.contrast_intervals import ContrastFamily, ContrastIntervals, Method
from gptx.statistics.power import SeedsNeeded, paired_plan, pooled_plan, upper_deviation
from gptx.statistics.run_table import RunTable
from gptx.statistics.verdict import Interval, Verdict, judge

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The difference ``arm - baseline``, in the unit of the metric."""

    arm: str
    baseline: str
    estimate: float
    """NaN if the runs do not determine it."""
    error: float
    """Standard error over seeds; NaN without an interval."""
    interval: Interval | None
    """Simultaneous over the family of `Effects`; none without a residual degree of freedom."""
    n: int
    """Seeds at which both arms have a finite value."""
    df: int
    """Degrees of freedom of the interval; of the paired one if the rule for unequal spread has fired."""
    diverged: int
    """Diverged runs of the arm."""
    method: Method
    verdict: Verdict
    needed: SeedsNeeded | None
    """For an undecided difference, if there is a margin and an interval."""
    note: str
    """What limits this row, as a sentence, or empty."""
    differences: Floats = field(repr=False, compare=False)
    """``arm - baseline`` within seeds, of shape (n,)."""
    own_level: float
    """The level that Bonferroni leaves to one interval of the family."""

    @cached_property
    def bootstrap(self) -> Interval | None:
        """BCa bootstrap over paired differences, Bonferroni over the family, from 8 seeds on: a check of the interval.

        Computed on request, because resampling takes time."""
        return paired_bootstrap(self.differences, self.own_level)

    @property
    def sign(self) -> str:
        """``+`` or ``-`` if the interval excludes zero, else empty."""
        if self.interval is None or not self.interval.excludes_zero:
            return ""
        return "+" if self.interval.low > 0 else "-"


@dataclass(frozen=True, kw_only=True)
class Effects:
    """The differences of a family of arms, whose intervals hold together with probability ``level``."""

    baseline: str
    margin: float | None
    level: float
    effects: tuple[Effect, ...]
    """In order of the arms' names."""
    method: Method
    residual_deviation: float
    """Standard deviation of a run around arm + seed; NaN without a residual degree of freedom."""
    df: int
    critical_value: float
    """Standard errors in a half width of the pooled intervals; NaN without a residual degree of freedom."""
    notes: tuple[str, ...]
    """What a reader must know about all rows, one sentence each."""

    def of(self, arm: str) -> Effect:
        """The effect of an arm against the baseline."""
        return next(effect for effect in self.effects if (effect.arm, effect.baseline) == (arm, self.baseline))


def effects(
    frame: "pd.DataFrame",
    baseline: str,
    margin: float | None,
    *,
    higher_is_better: bool = False,
    all_pairs: bool = False,
    level: float = 0.95,
) -> Effects:
    """Compares the arms of ``frame``, with the columns arm, seed and value, with ``baseline``, or all pairs of arms.

    A value that is NaN or infinite is a diverged run; a row that does not exist is a missing one. ``margin``:
    differences below it do not matter; it was fixed before looking at the runs. Raises `GptxError` for a baseline
    that does not exist and for two rows of one arm and seed.
    """
    table = RunTable.of(frame)
    if baseline not in table.arms:
        raise GptxError(f"baseline {baseline!r} is not among the arms: {', '.join(table.arms)}")
    comparison = _Comparison(table, baseline, margin, higher_is_better, all_pairs, level)
    return comparison.effects()


@dataclass(frozen=True, eq=False)
class _Comparison:
    table: RunTable
    baseline: str
    margin: float | None
    higher_is_better: bool
    all_pairs: bool
    level: float

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Arm and baseline of each difference."""
        others = [arm for arm in self.table.arms if arm != self.baseline]
        pairs = [(arm, self.baseline) for arm in others]
        return pairs + [(b, a) for a, b in combinations(others, 2)] if self.all_pairs else pairs

    @cached_property
    def family(self) -> ContrastFamily:
        """The differences, whose weights have the shape (pairs, arms)."""
        arms = np.eye(len(self.table.arms))
        index = {arm: i for i, arm in enumerate(self.table.arms)}
        rows = [arms[index[arm]] - arms[index[other]] for arm, other in self.pairs]
        weights = np.array(rows).reshape(len(rows), len(arms))
        return ContrastFamily(BlockModel.of_present(self.table.finite), weights, self.level)

    @cached_property
    def values(self) -> Floats:
        """The finite values as one data set, of shape (runs, 1)."""
        return self.table.values[self.table.finite][:, None]

    @cached_property
    def intervals(self) -> ContrastIntervals:
        return self.family.intervals(self.values)

    @cached_property
    def method(self) -> Method:
        if not self.family.has_intervals:
            return Method.NONE
        if self.intervals.wider[0]:
            return Method.WIDER
        return Method.PAIRED if self.intervals.paired[0] else Method.POOLED

    def effects(self) -> Effects:
        return Effects(
            baseline=self.baseline,
            margin=self.margin,
            level=self.level,
            effects=tuple(self._effect(i) for i in range(len(self.pairs))),
            method=self.method,
            residual_deviation=float(self.intervals.deviations[0]),
            df=self.family.model.df,
            critical_value=self.family.pooled_value if self.family.has_intervals else np.nan,
            notes=tuple(self._notes()),
        )

    def _effect(self, i: int) -> Effect:
        arm, other = self.pairs[i]
        estimate, half = float(self.intervals.estimates[i, 0]), float(self.intervals.half_widths[i, 0])
        interval = None if np.isnan(half) else Interval(estimate=estimate, low=estimate - half, high=estimate + half)
        n, diverged = self.family.complete_seeds[i], self.table.diverged(arm)
        is_paired = self.method is Method.PAIRED or (self.method is Method.WIDER and n >= 2)
        verdict = self._verdict(interval, arm, other)
        undecided = interval is not None and verdict is Verdict.UNDECIDED and not diverged
        differences = self.family.model.per_seed(self.family.weights[i], self.values)[:, 0]
        return Effect(
            arm=arm,
            baseline=other,
            estimate=estimate,
            error=float(self.intervals.errors[i, 0]),
            interval=interval,
            n=n,
            df=0 if interval is None else n - 1 if is_paired else self.family.model.df,
            diverged=diverged,
            method=Method.NONE if interval is None else self.method,
            verdict=verdict,
            needed=self._needed(differences, is_paired) if undecided and self.margin else None,
            note=self._note(arm, other, n, estimate),
            differences=differences,
            own_level=1 - (1 - self.level) / len(self.pairs),
        )

    def _verdict(self, interval: Interval | None, arm: str, other: str) -> Verdict:
        if interval is None:
            return Verdict.UNDECIDED
        verdict = judge(interval, self.margin or 0.0, higher_is_better=self.higher_is_better)
        barred = {Verdict.EQUIVALENT} if self.table.diverged(arm) or self.table.diverged(other) else set()
        barred |= {Verdict.BETTER} if self.table.diverged(arm) else set()
        barred |= {Verdict.WORSE} if self.table.diverged(other) else set()
        return Verdict.UNDECIDED if verdict in barred else verdict

    def _needed(self, differences: Floats, is_paired: bool) -> SeedsNeeded:
        if not is_paired:
            return self._pooled_seeds
        spread = upper_deviation(float(differences.std(ddof=1)), len(differences) - 1)
        return paired_plan(spread, self.family.paired_count, self.level).seeds_needed(self.margin or 0.0)

    @cached_property
    def _pooled_seeds(self) -> SeedsNeeded:
        """The seeds that any difference with the pooled spread needs."""
        spread = upper_deviation(float(self.intervals.deviations[0]), self.family.model.df)
        plan = pooled_plan(spread, len(self.table.arms), self.level, all_pairs=self.all_pairs)
        return plan.seeds_needed(self.margin or 0.0)

    def _note(self, arm: str, other: str, n: int, estimate: float) -> str:
        if diverged := self.table.diverged(arm):
            return f"{diverged} of {self.table.runs(arm)} runs diverged; the estimate leaves them out"
        if self.method is Method.PAIRED and n < 2:
            return f"no paired interval: shares fewer than two seeds with {other}"
        if np.isnan(estimate):
            return f"shares no seed with {other}, directly or through other arms"
        return "" if n else f"shares no seed with {other}; the estimate goes through other arms"

    def _notes(self) -> list[str]:
        notes = []
        if diverged := self.table.diverged(self.baseline):
            runs = self.table.runs(self.baseline)
            notes.append(f"{diverged} of {runs} runs of the baseline diverged: an arm can be better, nothing else")
        if self.method is Method.PAIRED:
            notes.append("the arms differ in spread: paired t intervals with Bonferroni replace the pooled ones")
        if self.method is Method.WIDER:
            notes.append(
                "an arm may differ in spread: each interval is the wider one of pooled and paired t (Bonferroni)"
            )
        if self.method is Method.NONE:
            notes.append("no interval: it needs two seeds that an arm shares with the baseline")
        return notes
