"""How much sooner an arm reaches the baseline's final loss: steps, tokens, FLOPs or seconds, as a ratio over seeds.

The target of a run is the last validation loss of the baseline's run with the same seed. A run reaches it at its first
validation at or below the target; between that validation and the one before, the loss is taken to be linear in the
logarithm of the axis, as losses of language models nearly are. The same rule is applied to the baseline itself, whose
noisy curve may touch its last value before its end. Otherwise an arm that is equal to the baseline would seem to be
faster. The ratio of the two positions is taken on the logarithmic scale: its mean over seeds with a paired t interval.

A run that never reaches the target has no ratio, and those that do are a biased selection: of an arm that is equal to
the baseline, up to half of the runs never do. Therefore there is a mean and an interval only if all runs reach the
target. The median takes each of the others as later than all that reach it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """The validations of a run: losses (n,), and ascending positions (n,) in steps, tokens, FLOPs or seconds. Positions
    of 0 and losses that are not finite are ignored."""

    positions: Sequence[float]
    losses: Sequence[float]

    def points(self) -> tuple[Array, Array]:
        """Positions and losses of the validations that count.

        Raises:
            ValueError: the lengths differ, or the positions do not ascend.
        """
        at, losses = np.asarray(self.positions, float), np.asarray(self.losses, float)
        if at.shape != losses.shape or at.ndim != 1 or not (np.diff(at) > 0).all():
            raise ValueError(f"expected as many losses as ascending positions, got {losses.shape} and {at.shape}")
        counts = np.isfinite(losses) & (at > 0)
        return at[counts], losses[counts]


@dataclass(frozen=True)
class Crossing:
    """Where a curve reaches a target. ``at_first``: at its first validation, so it may have reached it before."""

    position: float
    at_first: bool = False


def first_crossing(curve: Curve, target: float) -> Crossing | None:
    """The first crossing of a target; None if the curve never reaches it."""
    at, losses = curve.points()
    reached = np.flatnonzero(losses <= target)
    if not len(reached):
        return None
    after = int(reached[0])
    if after == 0:
        return Crossing(float(at[0]), at_first=True)
    above, below = losses[after - 1], losses[after]
    share = (above - target) / (above - below)
    start, end = math.log(at[after - 1]), math.log(at[after])
    return Crossing(math.exp(start + share * (end - start)))


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far an arm has to train to reach the baseline's final loss, as a ratio to what the baseline needs.

    Attributes:
        runs: pairs of runs with the same seed.
        never: runs of the arm that never reach the target.
        at_first: runs of the arm that have reached it at their first validation: their ratio is an upper bound.
        baseline_at_first: runs of the baseline that have: the ratio of their pairs is a lower bound.
        ratio: the geometric mean over the seeds; None if a run never reaches the target, or a
            baseline has reached it at its first validation, where its own position is unknown.
        low, high: its interval; None with fewer than two runs, or without a ratio.
        median: the median ratio, in which a run that never reaches the target counts as later than all others; None if
            it is such a run.
    """

    runs: int
    never: int
    at_first: int
    baseline_at_first: int
    ratio: float | None
    low: float | None
    high: float | None
    median: float | None

    def describe(self, unit: str) -> str:
        """``reaches it in 0.71 of the tokens, 0.67 to 0.75``. ``unit``: steps, tokens, FLOPs or seconds."""
        if self.never:
            counted = f"{self.never} of {self.runs} never reach it"
            return f"{counted}; the median run needs {self.median:.2f} of the {unit}" if self.median else counted
        if self.baseline_at_first:
            counted = f"{self.baseline_at_first} of {self.runs} runs of the baseline"
            return f"no ratio: {counted} have reached their last loss at the first validation"
        bound = "at most " if self.at_first else ""
        limits = f", {self.low:.2f} to {self.high:.2f}" if self.low is not None else ""
        return f"reaches it in {bound}{self.ratio:.2f} of the {unit}{limits}"


def reach(pairs: Sequence[tuple[Curve, Curve]], level: float = 0.95) -> Reach:
    """Compare an arm with the baseline.

    Args:
        pairs: curves of the arm and of the baseline with the same seed, one pair for each seed.
        level: the confidence of the interval.

    Raises:
        ValueError: there is no pair, or a baseline has no finite loss.
    """
    if not pairs:
        raise ValueError("expected at least one pair of runs")
    crossings = [_pair(arm, baseline) for arm, baseline in pairs]
    logs = [math.log(own.position / base.position) for own, base in crossings if own]
    comparable = len(logs) == len(pairs) and not any(base.at_first for _, base in crossings)
    low, ratio, high = _interval(logs, level) if comparable else (None, None, None)
    return Reach(
        runs=len(pairs),
        never=len(pairs) - len(logs),
        at_first=sum(own.at_first for own, _ in crossings if own),
        baseline_at_first=sum(base.at_first for _, base in crossings),
        ratio=ratio,
        low=low,
        high=high,
        median=None if any(base.at_first for _, base in crossings) else _median(logs, len(pairs)),
    )


def _pair(arm: Curve, baseline: Curve) -> tuple[Crossing | None, Crossing]:
    """Where the arm and the baseline reach the baseline's last loss."""
    _, losses = baseline.points()
    if not len(losses):
        raise ValueError("a run of the baseline has no finite validation loss")
    own = first_crossing(baseline, losses[-1])
    assert own is not None  # its last validation is at its last loss
    return first_crossing(arm, losses[-1]), own


def _interval(logs: Sequence[float], level: float) -> tuple[float | None, float, float | None]:
    from scipy.stats import t

    mean, n = float(np.mean(logs)), len(logs)
    if n < 2:
        return None, math.exp(mean), None
    half = float(t.isf((1 - level) / 2, n - 1) * np.std(logs, ddof=1) / math.sqrt(n))
    return math.exp(mean - half), math.exp(mean), math.exp(mean + half)


def _median(logs: Sequence[float], runs: int) -> float | None:
    """The median ratio; the larger of the two middle ones of an even number must exist."""
    ordered = sorted(logs)
    if runs // 2 >= len(ordered):
        return None
    return math.exp((ordered[(runs - 1) // 2] + ordered[runs // 2]) / 2)
