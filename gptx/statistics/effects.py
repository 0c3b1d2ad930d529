"""Differences between variants: ``arm - baseline`` with simultaneous intervals and verdicts.

The estimates come from the model value ~ arm + seed (`gptx.statistics.block_model`), the intervals from
`gptx.statistics.contrast_intervals`, the verdicts from `gptx.statistics.verdict`. docs/statistics.md explains the
choices and shows simulations.

A diverged run is no missing value: it was worse than any finite one. The estimates leave it out, which flatters its
arm. So an arm with a diverged run can be worse, but neither better nor equivalent; compared with a baseline with a
diverged run, an arm can be better, but neither worse nor equivalent; if both have one, the verdict is undecided.
"""

from dataclasses import dataclass
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
    diverged: int
    """Diverged runs of the arm."""
    method: Method
    verdict: Verdict
    needed: SeedsNeeded | None
    """For an undecided difference, if there is a margin and an interval."""
    bootstrap: Interval | None
    """BCa bootstrap over paired differences, Bonferroni over the family, from 8 seeds on: a check of the interval."""
    note: str
    """What limits this row, as a sentence, or empty."""

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


@dataclass(frozen=True)
class _Comparison:
    table: RunTable
    baseline: str
    margin: float | None
    higher_is_better: bool
    all_pairs: bool
    level: float

    def pairs(self) -> list[tuple[str, str]]:
        """Arm and baseline of each difference."""
        others = [arm for arm in self.table.arms if arm != self.baseline]
        pairs = [(arm, self.baseline) for arm in others]
        return pairs + [(b, a) for a, b in combinations(others, 2)] if self.all_pairs else pairs

    def weights(self) -> Floats:
        arms = np.eye(len(self.table.arms))
        index = {arm: i for i, arm in enumerate(self.table.arms)}
        rows = [arms[index[arm]] - arms[index[other]] for arm, other in self.pairs()]
        return np.array(rows).reshape(len(rows), len(arms))

    def effects(self) -> Effects:
        model = BlockModel.of_present(self.table.finite)
        family = ContrastFamily(model, self.weights(), self.level)
        intervals = family.intervals(self.table.values[self.table.finite][:, None])
        method = Method.PAIRED if intervals.paired[0] else Method.POOLED
        method = method if family.has_intervals else Method.NONE
        rows = [self._effect(family, intervals, method, i) for i in range(len(family.weights))]
        return Effects(
            baseline=self.baseline,
            margin=self.margin,
            level=self.level,
            effects=tuple(rows),
            method=method,
            residual_deviation=float(intervals.deviations[0]),
            df=model.df,
            critical_value=family.pooled_value if family.has_intervals else np.nan,
            notes=tuple(self._notes(method)),
        )

    def _effect(self, family: ContrastFamily, intervals: ContrastIntervals, method: Method, i: int) -> Effect:
        arm, other = self.pairs()[i]
        estimate, half = float(intervals.estimates[i, 0]), float(intervals.half_widths[i, 0])
        interval = None if np.isnan(half) else Interval(estimate=estimate, low=estimate - half, high=estimate + half)
        n, diverged = family.complete_seeds[i], self.table.diverged(arm)
        verdict = self._verdict(interval, arm, other)
        undecided = interval is not None and verdict is Verdict.UNDECIDED and not diverged
        differences = family.model.per_seed(family.weights[i], self.table.values[self.table.finite][:, None])[:, 0]
        return Effect(
            arm=arm,
            baseline=other,
            estimate=estimate,
            error=float(intervals.errors[i, 0]),
            interval=interval,
            n=n,
            df=0 if interval is None else n - 1 if method is Method.PAIRED else family.model.df,
            diverged=diverged,
            method=Method.NONE if interval is None else method,
            verdict=verdict,
            needed=self._needed(family, intervals, differences, method) if undecided else None,
            bootstrap=paired_bootstrap(differences, 1 - (1 - self.level) / len(family.weights)),
            note=self._note(arm, other, n, estimate, method),
        )

    def _verdict(self, interval: Interval | None, arm: str, other: str) -> Verdict:
        if interval is None:
            return Verdict.UNDECIDED
        verdict = judge(interval, self.margin or 0.0, higher_is_better=self.higher_is_better)
        barred = {Verdict.EQUIVALENT} if self.table.diverged(arm) or self.table.diverged(other) else set()
        barred |= {Verdict.BETTER} if self.table.diverged(arm) else set()
        barred |= {Verdict.WORSE} if self.table.diverged(other) else set()
        return Verdict.UNDECIDED if verdict in barred else verdict

    def _needed(
        self, family: ContrastFamily, intervals: ContrastIntervals, differences: Floats, method: Method
    ) -> SeedsNeeded | None:
        if not self.margin:
            return None
        if method is Method.PAIRED:
            spread = upper_deviation(float(differences.std(ddof=1)), len(differences) - 1)
            return paired_plan(spread, family.paired_count, self.level).seeds_needed(self.margin)
        spread = upper_deviation(float(intervals.deviations[0]), family.model.df)
        plan = pooled_plan(spread, len(self.table.arms), self.level, all_pairs=self.all_pairs)
        return plan.seeds_needed(self.margin)

    def _note(self, arm: str, other: str, n: int, estimate: float, method: Method) -> str:
        if diverged := self.table.diverged(arm):
            return f"{diverged} of {self.table.runs(arm)} runs diverged; the estimate leaves them out"
        if method is Method.PAIRED and n < 2:
            return f"no paired interval: shares fewer than two seeds with {other}"
        if np.isnan(estimate):
            return f"shares no seed with {other}, directly or through other arms"
        return "" if n else f"shares no seed with {other}; the estimate goes through other arms"

    def _notes(self, method: Method) -> list[str]:
        notes = []
        if diverged := self.table.diverged(self.baseline):
            runs = self.table.runs(self.baseline)
            notes.append(f"{diverged} of {runs} runs of the baseline diverged: an arm can be better, nothing else")
        if method is Method.PAIRED:
            notes.append("the arms differ in spread: paired t intervals with Bonferroni replace the pooled ones")
        if method is Method.NONE:
            notes.append("no interval: it needs two seeds that an arm shares with the baseline")
        return notes
