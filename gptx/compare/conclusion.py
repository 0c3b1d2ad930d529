"""The comparison in words: a sentence with the verdicts, the noise between seeds, and notes about the method."""

import math
import statistics
from collections.abc import Sequence

from gptx.compare.comparison import ArmEffect, Comparison
from gptx.compare.formatting import count
from gptx.runs.metrics import Metric
from gptx.statistics.effects import Effect
from gptx.statistics.power import pooled_plan
from gptx.statistics.verdict import Verdict

_NAMED = 6  # arms of one verdict that the sentence names


def sentence(comparison: Comparison) -> str:
    """Which arms are better, worse, equivalent or undecided against the baseline, and by how much."""
    if comparison.baseline is None or comparison.effects is None:
        return "Nothing is compared: it takes two arms with finished runs."
    what = f"{comparison.metric.title}{f' in {comparison.metric.unit}' * bool(comparison.metric.unit)}"
    head = f"Compared with {comparison.baseline.name} ({what})"
    if all(one.effect.interval is None for one in comparison.arms):
        why = "with one seed per arm, a difference may be chance" if one_seed(comparison) else "no two seeds are shared"
        return f"{head}, nothing is decided: {why}; run more seeds, such as seed=0,1,2."
    parts = [_verdict_text(comparison, verdict) for verdict in Verdict]
    return f"{head}: {'; '.join(filter(None, parts))}."


def one_seed(comparison: Comparison) -> bool:
    """Whether no arm has more than one run."""
    baseline = comparison.baseline
    return all(len(one.arm.rows) < 2 for one in comparison.arms) and (baseline is None or len(baseline.rows) < 2)


def _verdict_text(comparison: Comparison, verdict: Verdict) -> str:
    found = [one for one in comparison.arms if one.effect.verdict is verdict]
    if not found:
        return ""
    named = found[:_NAMED] if len(found) <= _NAMED + 1 else found[: _NAMED - 1]
    arms = ", ".join(_arm_text(comparison.metric, one, verdict) for one in (found if len(found) <= _NAMED else named))
    more = f" and {len(found) - len(named)} more" if len(found) > _NAMED else ""
    margin = f" (within ±{number(comparison.metric, comparison.margin)})" if verdict is Verdict.EQUIVALENT else ""
    return f"{verdict}{margin}: {arms}{more}"


def _arm_text(metric: Metric, one: ArmEffect, verdict: Verdict) -> str:
    decided = verdict in (Verdict.BETTER, Verdict.WORSE)
    return f"{one.arm.name} by {amount(metric, one.effect)}" if decided else one.arm.name


def amount(metric: Metric, effect: Effect) -> str:
    """The size of a difference with its interval, such as ``0.490 ±0.020``, in the unit of `unit`."""
    half = "" if effect.interval is None else f" ±{number(metric, (effect.interval.high - effect.interval.low) / 2)}"
    return f"{number(metric, abs(effect.estimate))}{half}"


def number(metric: Metric, value: float, signed: bool = False) -> str:
    """A difference in the unit of `unit`, with the metric's decimals."""
    sign = "+" if signed else ""
    return "-" if math.isnan(value) else f"{value * metric.scale:{sign},.{metric.digits}f}"


def unit(metric: Metric) -> str:
    """The unit after a number, with a blank before it; empty if there is none."""
    return f" {metric.unit}" if metric.unit else ""


def noise_floor(comparison: Comparison) -> str:
    """What difference two seeds of one arm make, and the smallest effect that these seeds show; empty if unknown."""
    computed, metric = comparison.effects, comparison.metric
    if comparison.baseline is None or computed is None or math.isnan(computed.residual_deviation):
        return ""
    arms = [comparison.baseline, *(one.arm for one in comparison.arms)]
    spread = _spread_in_arms([[row.metrics[metric.key] for row in arm.rows] for arm in arms])
    seeds = min(one.effect.n for one in comparison.arms)
    typical = f"{number(metric, math.sqrt(2) * spread)}{unit(metric)}"
    text = f"Noise: two seeds of one arm differ by {typical} (root mean square)"
    if seeds < 2:
        return text
    smallest = pooled_plan(computed.residual_deviation, len(arms)).visible_difference(seeds)
    return f"{text}; {count(seeds, 'seed')} an arm can show a difference of {number(metric, smallest)} (power 80 %)"


def _spread_in_arms(values: Sequence[Sequence[float]]) -> float:
    """The standard deviation of runs of one arm, pooled over the arms."""
    finite = [[value for value in arm if math.isfinite(value)] for arm in values]
    squares = sum(statistics.variance(arm) * (len(arm) - 1) for arm in finite if len(arm) > 1)
    freedom = sum(len(arm) - 1 for arm in finite if arm)
    return math.sqrt(squares / freedom) if freedom else math.nan


def notes(comparison: Comparison) -> list[str]:
    """How the table was made: the choice of the baseline, the margin, the intervals, and what limits them."""
    computed, metric = comparison.effects, comparison.metric
    if comparison.baseline is None or computed is None:
        return []
    because = f" ({comparison.chosen_because}; --baseline chooses another)" if comparison.chosen_because else ""
    margin = f"differences within ±{number(metric, comparison.margin)}{unit(metric)} do not matter (--margin)"
    lines = [
        f"baseline: {comparison.baseline.name}{because}",
        f"margin: {margin}" if comparison.margin else "margin: none, so nothing can be equivalent (--margin sets one)",
    ]
    if computed.df:
        lines.append(f"intervals: {computed.level:.0%} for all arms together, paired by seed ({computed.method})")
    return [*lines, *(f"note: {note}" for note in computed.notes)]


def seeds_needed(effect: Effect) -> str:
    """The seeds that an undecided arm needs, for a difference as large as the margin and for none; else empty."""
    if effect.needed is None:
        return ""
    low, high = effect.needed.if_margin, effect.needed.if_zero
    return " / ".join(">1000" if n is None else str(n) for n in (low, high))
