"""What the charts of a report show, as typed records that are written into it as JSON."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gptx.compare.comparison import Comparison
from gptx.compare.costs import COSTS
from gptx.compare.report.curve_bands import CHARTED, ChartCurves, chart_curves
from gptx.compare.report.shown_arms import ShownArm, shown_arms
from gptx.runs.metrics import BY_KEY, Metric
from gptx.statistics.factorial import GridPanel

CHARTED_COSTS = (*COSTS, "n_params")


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
    """An arm: mean and sample standard deviation of its value, and its mean costs by key. None: not measured.
    ``places``: its place relative to the Pareto front, by the key of the cost, as far as that is known."""

    arm: str
    is_baseline: bool
    seeds: int
    mean: float
    deviation: float | None
    costs: dict[str, float | None]
    places: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class InteractionLine:
    """The differences of one level of the second factor at all levels of the first, in the metric's unit."""

    level: str
    estimates: list[float | None]
    half_widths: list[float | None]


@dataclass(frozen=True, kw_only=True)
class InteractionPanel:
    """Two factors: differences from the reference levels of both. ``levels``: of the first factor."""

    first: str
    second: str
    levels: list[str]
    lines: list[InteractionLine]


@dataclass(frozen=True, kw_only=True)
class ChartData:
    """All charts. ``forest``: None without a comparison. ``points`` are values of ``metric`` against ``costs``;
    ``cost_problems`` are reasons why costs do not compare, by key."""

    metric: ChartMetric
    forest: Forest | None
    curve_metrics: list[ChartMetric]
    curves: list[ChartCurves]
    costs: list[ChartMetric]
    cost_problems: dict[str, str]
    points: list[CostPoint]
    interactions: list[InteractionPanel]


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
        costs=[_described(BY_KEY[key]) for key in CHARTED_COSTS if key != metric.key],
        cost_problems={one.key: one.problem for one in comparison.costs if one.problem},
        points=_points(comparison, arms),
        interactions=_interactions(comparison),
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


def _points(comparison: Comparison, arms: Sequence[ShownArm]) -> list[CostPoint]:
    """The arms of which no run diverged: a mean over the other runs would be too good."""
    metric, found = comparison.metric, []
    places: dict[str, dict[str, str]] = {}
    for cost in comparison.costs:
        places.setdefault(cost.arm, {})[cost.key] = str(cost.place)
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
                costs={key: _number(one.arm.mean(key) * BY_KEY[key].scale) for key in CHARTED_COSTS},
                places=places.get(one.arm.name, {}),
            )
        )
    return found


def _interactions(comparison: Comparison) -> list[InteractionPanel]:
    if comparison.grid is None:
        return []
    return [_panel(panel, comparison.metric.scale) for panel in comparison.grid.effects.panels]


def _panel(panel: GridPanel, scale: float) -> InteractionPanel:
    at = {point.levels: point for point in panel.points}
    levels, others = (list(dict.fromkeys(point.levels[i] for point in panel.points)) for i in (0, 1))
    lines = []
    for other in others:
        points = [at.get((level, other)) for level in levels]
        intervals = [point.interval if point else None for point in points]
        lines.append(
            InteractionLine(
                level=other,
                estimates=[_number(point.estimate * scale) if point else None for point in points],
                half_widths=[_number((x.high - x.low) / 2 * scale) if x else None for x in intervals],
            )
        )
    return InteractionPanel(first=panel.factors[0], second=panel.factors[1], levels=levels, lines=lines)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
