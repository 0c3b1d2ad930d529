"""The verdict about a difference of two variants. It follows from one interval and a margin, never from a p-value."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The verdict about a difference from the baseline."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference from the baseline, in the unit of the metric: the estimate and the limits of its interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def within(self, margin: float) -> bool:
        """Whether the interval lies inside -margin to +margin. A margin of 0 has no inside."""
        return margin > 0 and -margin <= self.low and self.high <= margin


def judge(interval: Interval, margin: float, *, higher_is_better: bool = False) -> Verdict:
    """The verdict about an arm whose difference ``arm - baseline`` has this interval.

    Inside the margin: equivalent, even if the interval excludes zero. Else, if it excludes zero: better or worse. Else
    undecided. An interval with a limit that is NaN or infinite is undecided unless the other limit decides.
    """
    if interval.within(margin):
        return Verdict.EQUIVALENT
    if not interval.excludes_zero:
        return Verdict.UNDECIDED
    return Verdict.BETTER if (interval.low > 0) == higher_is_better else Verdict.WORSE
