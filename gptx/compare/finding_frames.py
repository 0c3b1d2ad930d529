"""What a comparison finds beyond the differences from the baseline, as pandas frames for files and for Python."""

import math

import pandas as pd

from gptx.compare.comparison import Comparison
from gptx.compare.findings import ArmReach

PAIR_COLUMNS = ("arm", "baseline", "metric", "difference", "low", "high", "verdict", "margin", "n", "method")
REACH_COLUMNS = ("arm", "baseline", "unit", "runs", "never", "at_first", "ratio", "low", "high", "median", "problem")
COST_COLUMNS = ("arm", "metric", "value", "cost", "cost_value", "place", "problem")
STRATEGY_COLUMNS = ("arm", "reference", "seed", "relative_difference", "step", "steps", "float32")


def pairs_frame(comparison: Comparison) -> pd.DataFrame:
    """One row for each pair of arms; the intervals of all pairs hold together. NaN: unknown."""
    records = []
    for one in comparison.pairs.effects if comparison.pairs else ():
        limits = (one.interval.low, one.interval.high) if one.interval else (math.nan, math.nan)
        head = (one.arm, one.baseline, comparison.metric.key, one.estimate, *limits)
        records.append((*head, str(one.verdict), comparison.margin, one.n, str(one.method)))
    return pd.DataFrame(records, columns=list(PAIR_COLUMNS))


def reach_frame(comparison: Comparison) -> pd.DataFrame:
    """One row for each arm and unit: the ratio to what the baseline needs for its final loss, with its limits; the runs
    that never reach it, and those that have at their first validation. NaN: unknown."""
    name = comparison.baseline.name if comparison.baseline else ""
    records = [(one.arm, name, str(one.unit), *_reach(one), one.problem) for one in comparison.reaches]
    return pd.DataFrame(records, columns=list(REACH_COLUMNS))


def _reach(one: ArmReach) -> tuple[float, ...]:
    if (found := one.reach) is None:
        return (math.nan,) * 7
    limits = (math.nan if value is None else value for value in (found.ratio, found.low, found.high, found.median))
    return found.runs, found.never, found.at_first, *limits


def costs_frame(comparison: Comparison) -> pd.DataFrame:
    """One row for each arm and cost, with its place relative to the Pareto front. NaN: unknown."""
    metric = comparison.metric.key
    records = [(one.arm, metric, one.value, one.key, one.cost, str(one.place), one.problem) for one in comparison.costs]
    return pd.DataFrame(records, columns=list(COST_COLUMNS))


def strategies_frame(comparison: Comparison) -> pd.DataFrame:
    """One row for each two runs that differ in the strategy only: the largest relative difference of their training
    losses in the first 20 steps, and where it is."""
    records = [
        (one.arm, one.reference, one.seed, one.first, one.at, one.steps, one.fp32)
        for one in comparison.strategies.differences
    ]
    return pd.DataFrame(records, columns=list(STRATEGY_COLUMNS))
