"""Seeds until decided: after each seed, which variants need another one, and what is known about the others.

All arms train with the same seeds in the same order. After each seed from ``min_seeds`` on, the differences of an arm
from the baseline, one for each seed, give an interval, and the arm stops as soon as the interval decides (`judge`). The
intervals are repeated confidence intervals (Jennison and Turnbull 1989): mean +- limit * sd / sqrt(seeds), where the
limits are those of `repeated_t_limits` with ``max_seeds`` fixed in advance. With probability ``level`` or more, all
intervals of all arms at all looks contain their true differences, whenever and for whatever reason an arm stops.

- Arms share the level by Bonferroni, and the spread of each arm is that of its own differences. So neither an unequal
  spread nor an arm that stops affects the intervals of the others.
- The spread is estimated from all seeds so far. The limits are exact for it, because the distribution of the sequence
  of t statistics does not depend on the true spread. A spread from the first ``min_seeds`` seeds alone would be
  simpler, but its level is not kept when a few seeds differ much from the others; see docs/statistics.md.
- The differences are taken to be normal. The level is also kept with heavy tails, but not with skewed differences.
- The estimate of an arm that stopped early is biased away from zero; its interval is valid.

What is decided is a function of the results alone: neither the order in which runs end nor results that were not asked
for matter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from gptx.statistics.repeated_t_limits import Spending, repeated_t_limits
from gptx.statistics.verdict import Interval, Verdict, judge

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class SequentialDesign:
    """What must be fixed before the first result is seen.

    Attributes:
        min_seeds: seeds before the first look, at least 2.
        max_seeds: seeds before the last look.
        margin: differences up to this size are equivalent; in the unit of the metric.
        level: the probability that all intervals of all arms contain the true differences.
    """

    min_seeds: int
    max_seeds: int
    margin: float
    level: float = 0.95
    spending: Spending = Spending.OBRIEN_FLEMING
    higher_is_better: bool = False

    def limits(self, comparisons: int) -> tuple[float, ...]:
        """The limits on abs(t) at each look, for one of this many arms that are compared with the baseline."""
        return repeated_t_limits(self.min_seeds, self.max_seeds, (1 - self.level) / max(1, comparisons), self.spending)


class ArmProgress(StrEnum):
    """Whether an arm needs more seeds."""

    CONTINUES = "continues"
    DECIDED = "decided"
    MAX_SEEDS = "max_seeds"  # undecided after the last look
    FAILED = "failed"  # a run of the arm or of the baseline failed or diverged


@dataclass(frozen=True, kw_only=True)
class SequentialArm:
    """What is known about an arm.

    Attributes:
        verdict: undecided unless ``progress`` is decided.
        interval: of the newest look; None if there was none yet.
        seeds: seeds at that look; 0 if there was none yet.
        stopped_early: it was decided before the last look, so the estimate is biased away from zero.
    """

    arm: str
    progress: ArmProgress
    verdict: Verdict = Verdict.UNDECIDED
    interval: Interval | None = None
    seeds: int = 0
    stopped_early: bool = False


@dataclass(frozen=True, kw_only=True)
class SequentialState:
    """The arms except the baseline, and the runs, as (arm, seed), that are needed next. None: all arms have stopped."""

    arms: tuple[SequentialArm, ...]
    needed: tuple[tuple[str, int], ...]


def follow_seeds(
    results: "DataFrame", arms: Sequence[str], baseline: str, seeds: Sequence[int], design: SequentialDesign
) -> SequentialState:
    """What the results so far decide.

    Args:
        results: one row for each ended run: ``arm``, ``seed``, and ``value``, which is not finite if the run failed or
            diverged. Other arms and seeds do not matter.
        arms: all arms with the baseline.
        seeds: the planned seeds, in the order in which they are used.

    Raises:
        ValueError: the baseline is no arm, a run has two results, or ``seeds`` are not ``max_seeds`` different ones.
    """
    if baseline not in arms or len(set(seeds)) != len(seeds) or len(seeds) != design.max_seeds:
        raise ValueError(f"expected a baseline among {list(arms)} and {design.max_seeds} different seeds")
    if results.duplicated(["arm", "seed"]).any():
        raise ValueError("a run has two results")
    values = {arm: dict(zip(rows["seed"], rows["value"], strict=True)) for arm, rows in results.groupby("arm")}
    compared = [arm for arm in arms if arm != baseline]
    limits = design.limits(len(compared))
    followed = [_follow(arm, values.get(arm, {}), values.get(baseline, {}), seeds, limits, design) for arm in compared]
    wanted = {arm: _next_look(one, design) for arm, one in zip(compared, followed, strict=True)}
    wanted[baseline] = max(wanted.values(), default=0)
    needed = [(arm, seed) for n, seed in enumerate(seeds) for arm in arms if n < wanted[arm]]
    missing = tuple((arm, seed) for arm, seed in needed if seed not in values.get(arm, {}))
    return SequentialState(arms=tuple(followed), needed=missing)


def _next_look(arm: SequentialArm, design: SequentialDesign) -> int:
    """The seeds at the next look at an arm; 0 if it has stopped."""
    return max(design.min_seeds, arm.seeds + 1) if arm.progress is ArmProgress.CONTINUES else 0


def _follow(
    arm: str,
    own: Mapping[int, float],
    base: Mapping[int, float],
    seeds: Sequence[int],
    limits: Sequence[float],
    design: SequentialDesign,
) -> SequentialArm:
    """Repeat the looks at one arm until it stops or a result is missing."""
    interval: Interval | None = None
    seen = 0
    for n, limit in enumerate(limits, design.min_seeds):
        known = [values[seed] for values in (own, base) for seed in seeds[:n] if seed in values]
        if len(known) < 2 * n or not all(map(math.isfinite, known)):
            progress = ArmProgress.CONTINUES if all(map(math.isfinite, known)) else ArmProgress.FAILED
            return SequentialArm(arm=arm, progress=progress, interval=interval, seeds=seen)
        interval, seen = _repeated_interval([own[seed] - base[seed] for seed in seeds[:n]], limit), n
        verdict = judge(interval, design.margin, higher_is_better=design.higher_is_better)
        if verdict is not Verdict.UNDECIDED:
            early = n < design.max_seeds
            decided = ArmProgress.DECIDED
            return SequentialArm(
                arm=arm, progress=decided, verdict=verdict, interval=interval, seeds=n, stopped_early=early
            )
    return SequentialArm(arm=arm, progress=ArmProgress.MAX_SEEDS, interval=interval, seeds=seen)


def _repeated_interval(differences: Sequence[float], limit: float) -> Interval:
    """mean +- limit * sd / sqrt(n); the point mean if all differences are equal."""
    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))
    half = limit * sd / math.sqrt(len(differences))
    return Interval(estimate=mean, low=mean - half, high=mean + half)
