"""What the charts of a report show, as typed records that are written into it as JSON."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gptx.compare.comparison import Comparison
from gptx.compare.report.curve_bands import CHARTED, ChartCurves, chart_curves
from gptx.compare.report.shown_arms import ShownArm, shown_arms
from gptx.runs.metrics import BY_KEY, Metric

COSTS = ("tokens_per_s", "peak_memory_bytes", "flops_per_token", "kv_bytes_per_token", "n_params")


@dataclass(frozen=True, kw_only=True)
class ChartMetric:
    """``key``: of the values in the chart; values are in ``unit`` already."""

    key: str
    title: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """An arm's difference from the baseline; the limits are None if it has no interval."""

    arm: str
    estimate: float | None
    low: float | None
    high: float | None
    verdict: str
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Forest:
    """The differences of all arms from the baseline, in the metric's unit; ``margin`` 0: none."""

    metric: ChartMetric
    baseline: str
    margin: float
    rows: list[ForestRow]


@dataclass(frozen=True, kw_only=True)
class CostPoint:
    """An arm: mean and sample standard deviation of its value, and its mean costs by key. None: not measured."""

    arm: str
    is_baseline: bool
    seeds: int
    mean: float
    deviation: float | None
    costs: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ChartData:
    """All charts. ``forest``: None without a comparison. ``points`` are values of ``metric`` against ``costs``."""

    metric: ChartMetric
    forest: Forest | None
    curve_metrics: list[ChartMetric]
    curves: list[ChartCurves]
    costs: list[ChartMetric]
    points: list[CostPoint]


def chart_data(comparison: Comparison) -> ChartData:
    """The charts of a comparison."""
    arms, metric = shown_arms(comparison), comparison.metric
    curves = chart_curves(arms, comparison.found.curves)
    drawn = {band.metric for arm in curves for band in arm.bands}
    return ChartData(
        metric=_described(metric),
        forest=_forest(comparison),
        curve_metrics=[_described(one, one.curve) for one in CHARTED if one.curve in drawn],
        curves=curves,
        costs=[_described(BY_KEY[key]) for key in COSTS if key != metric.key],
        points=_points(arms, metric),
    )


def _described(metric: Metric, key: str = "") -> ChartMetric:
    return ChartMetric(
        key=key or metric.key, title=metric.title, unit=metric.unit, higher_is_better=metric.higher_is_better
    )


def _forest(comparison: Comparison) -> Forest | None:
    if comparison.baseline is None:
        return None
    metric = comparison.metric
    rows = [
        ForestRow(
            arm=one.arm.name,
            estimate=_number(one.effect.estimate * metric.scale),
            low=_number(one.effect.interval.low * metric.scale) if one.effect.interval else None,
            high=_number(one.effect.interval.high * metric.scale) if one.effect.interval else None,
            verdict=str(one.effect.verdict),
            seeds=one.effect.n,
        )
        for one in comparison.arms
    ]
    margin = comparison.margin * metric.scale
    return Forest(metric=_described(metric), baseline=comparison.baseline.name, margin=margin, rows=rows)


def _points(arms: Sequence[ShownArm], metric: Metric) -> list[CostPoint]:
    """The arms of which no run diverged: a mean over the other runs would be too good."""
    found = []
    for one in arms:
        values = [row.metrics[metric.key] * metric.scale for row in one.rows]
        if not values or any(row.diverged for row in one.rows) or not all(map(math.isfinite, values)):
            continue
        found.append(
            CostPoint(
                arm=one.arm.name,
                is_baseline=one.is_baseline,
                seeds=len(values),
                mean=float(np.mean(values)),
                deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None,
                costs={key: _number(one.arm.mean(key) * BY_KEY[key].scale) for key in COSTS},
            )
        )
    return found


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
