"""The comparison in words: a sentence with the verdicts, the noise between seeds, and notes about the method."""

import math
from decimal import Decimal

from gptx.compare.arm_effects import ArmEffect
from gptx.compare.comparison import Comparison
from gptx.compare.formatting import count
from gptx.compare.run_rows import unfinished
from gptx.runs.metrics import Metric
from gptx.statistics import noise
from gptx.statistics.contrast_intervals import Method
from gptx.statistics.effects import Effect
from gptx.statistics.text import Remedy
from gptx.statistics.verdict import Verdict

_NAMED = 6  # arms of one verdict that the sentence names


def sentence(comparison: Comparison) -> str:
    """Which arms are better, worse, equivalent or undecided against the baseline, and by how much."""
    if comparison.baseline is None or comparison.effects is None:
        why = "no two arms are comparable" if comparison.excluded else "it takes two arms with finished runs"
        return f"Nothing is compared: {why}."
    metric = comparison.metric
    what = metric.title + (f" in {metric.unit}" if metric.unit not in ("", metric.title) else "")
    head = f"Compared with {comparison.baseline.name} ({what})"
    if all(one.effect.interval is None for one in comparison.arms):
        return f"{head}, nothing is decided: {_why_undecided(comparison)}."
    parts = [_verdict_text(comparison, verdict) for verdict in Verdict]
    return f"{head}: {'; '.join(filter(None, parts))}."


def _why_undecided(comparison: Comparison) -> str:
    """Why no difference has an interval."""
    arms = comparison.compared
    seeds = [{row.seed_label for row in (*arm.rows, *arm.diverged)} for arm in arms]
    if all(len(found) < 2 for found in seeds):
        return "with one seed per arm, a difference may be chance; run more seeds, such as seed=0,1,2"
    if not any(len(seeds[0] & found) > 1 for found in seeds[1:]):
        return "no arm shares two seeds with the baseline; run the same seeds in all arms, such as seed=0,1,2"
    if any(row.diverged for arm in arms for row in (*arm.rows, *arm.diverged)):
        return "too many runs diverged"
    return f"too many runs have no value of {comparison.metric.title}"


def _verdict_text(comparison: Comparison, verdict: Verdict) -> str:
    found = [one for one in comparison.arms if one.effect.verdict is verdict]
    if not found:
        return ""
    named = found[:_NAMED] if len(found) <= _NAMED + 1 else found[: _NAMED - 1]
    arms = ", ".join(_arm_text(comparison, one, verdict) for one in (found if len(found) <= _NAMED else named))
    more = f" and {len(found) - len(named)} more" if len(found) > _NAMED else ""
    margin = f" (within ±{margin_number(comparison)})" if verdict is Verdict.EQUIVALENT else ""
    return f"{verdict}{margin}: {arms}{more}"


def verdict_of(comparison: Comparison, arm: str) -> str:
    """The verdict about an arm, with ``on this text`` where another validation text could change it."""
    doubt = comparison.doubt_of(arm)
    effect = next(one.effect for one in comparison.arms if one.arm.name == arm)
    return str(doubt.verdict) if doubt and doubt.verdict else str(effect.verdict)


def remedy(comparison: Comparison, arm: str) -> str:
    """Whether more seeds or more text would make the verdict surer; empty if it is sure or nothing is known."""
    doubt = comparison.doubt_of(arm)
    return str(doubt.verdict.remedy) if doubt and doubt.verdict and doubt.verdict.remedy is not Remedy.NOTHING else ""


def _arm_text(comparison: Comparison, one: ArmEffect, verdict: Verdict) -> str:
    """The arm with its difference, if that is not 0 by its interval and as it is shown."""
    name, effect, metric = one.arm.name, one.effect, comparison.metric
    doubt = comparison.doubt_of(name)
    name += " (on this text)" if doubt and doubt.verdict and doubt.verdict.only_on_this_text else ""
    if verdict is Verdict.EQUIVALENT and effect.sign and round(effect.estimate * metric.scale, metric.digits):
        return f"{name} ({'higher' if effect.sign == '+' else 'lower'} by {amount(metric, effect)})"
    if verdict not in (Verdict.BETTER, Verdict.WORSE) or effect.interval is None:
        return name
    nearest = min(abs(effect.interval.low), abs(effect.interval.high))
    small = " (perhaps by less than the margin)" if nearest < comparison.margin else ""
    return f"{name} by {amount(metric, effect)}{small}"


def amount(metric: Metric, effect: Effect) -> str:
    """The size of a difference with its interval, such as ``0.490 ±0.020``, in the unit of `unit`."""
    half = "" if effect.interval is None else f" ±{number(metric, (effect.interval.high - effect.interval.low) / 2)}"
    return f"{number(metric, abs(effect.estimate))}{half}"


def number(metric: Metric, value: float, signed: bool = False) -> str:
    """A difference in the unit of `unit`, with the metric's decimals."""
    rounded = round(value * metric.scale, metric.digits) + 0.0  # without the sign of -0.0
    return "-" if math.isnan(value) else f"{rounded:{'+' if signed else ''},.{metric.digits}f}"


def margin_number(comparison: Comparison) -> str:
    """The margin in the unit of `unit`, with the metric's decimals, or as many as it has."""
    value = Decimal(f"{comparison.margin * comparison.metric.scale:.10g}").normalize()
    exponent = value.as_tuple().exponent
    decimals = -exponent if isinstance(exponent, int) else 0
    return f"{value:,.{max(comparison.metric.digits, decimals)}f}"


def unit(metric: Metric) -> str:
    """The unit after a number, with a blank before it; empty if there is none."""
    return f" {metric.unit}" if metric.unit else ""


def noise_floor(comparison: Comparison) -> str:
    """What difference two seeds of one arm make, and the smallest difference that these seeds show; empty if
    unknown."""
    metric, baseline = comparison.metric, comparison.baseline
    if baseline is None or comparison.effects is None:
        return ""
    found = noise.noise_floor(comparison.values, baseline.name, comparison.effects.level)
    if math.isnan(found.typical_difference):
        return ""
    typical = f"{number(metric, found.typical_difference)}{unit(metric)}"
    text = f"Noise: two seeds of one arm differ by {typical} on average"
    if math.isnan(found.visible_difference):
        return f"{text}."
    numbers = sorted({one.effect.n for one in comparison.arms if one.effect.n}) or [found.seeds]
    fewest = f"{numbers[0]} to " if numbers[0] < numbers[-1] else ""
    smallest = number(metric, found.visible_difference)
    return (
        f"{text}; with {fewest}{count(numbers[-1], 'seed')} per arm, a difference of {smallest} is found (power 80 %)."
    )


def notes(comparison: Comparison) -> list[str]:
    """How the table was made: the choice of the baseline, the margin, the intervals, and what limits them."""
    computed = comparison.effects
    if comparison.baseline is None or computed is None:
        return []
    because = f" ({comparison.chosen_because}; --baseline chooses another)" if comparison.chosen_because else ""
    margin = f"differences within ±{margin_number(comparison)}{unit(comparison.metric)} do not matter (--margin)"
    lines = [
        f"baseline: {comparison.baseline.name}{because}",
        f"margin: {margin}" if comparison.margin else "margin: none, so nothing can be equivalent (--margin sets one)",
    ]
    if computed.method is not Method.NONE:
        within = "differences within a seed, " * (computed.method is Method.POOLED)
        lines.append(f"intervals: {100 * computed.level:g} % for all arms together, {within}{computed.method}")
    return [*lines, *(f"note: {note}" for note in (*_earlier_version(comparison), *computed.notes))]


def _earlier_version(comparison: Comparison) -> list[str]:
    """That the values are chosen on the text on which they are reported, see `gptx.runs.records.VALIDATION`."""
    old = all(row.result.validation < 3 for arm in comparison.compared for row in arm.rows)
    if not old or not comparison.metric.key.startswith("val_"):
        return []
    title = comparison.metric.title
    return [
        f"an earlier version trained these runs: {title} is the best of all validations, chosen and reported on the "
        "same text, so it is too good"
    ]


def remarks(comparison: Comparison) -> list[str]:
    """What is not compared and why, warnings, and the runs that did not finish."""
    rest = unfinished(comparison.found.rows)
    lines = [
        *comparison.excluded,
        *comparison.strategies.suspected,
        *comparison.warnings,
        *([f"not finished: {rest}"] if rest else []),
    ]
    return [*lines, *comparison.found.left_out]


def seeds_needed(effect: Effect) -> str:
    """The seeds that an undecided arm needs, for a difference as large as the margin and for none; else empty."""
    if effect.needed is None:
        return ""
    low, high = effect.needed.if_margin, effect.needed.if_zero
    return " / ".join(">1000" if n is None else str(n) for n in (low, high))
