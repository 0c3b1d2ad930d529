"""The curves of arms for charts: mean and range over the seeds at each step, at most `MAX_POINTS` points a curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gptx.compare.report.shown_arms import ShownArm
from gptx.compare.run_rows import RunRow
from gptx.runs.metrics import METRICS

MAX_POINTS = 200
CHARTED = tuple(metric for metric in METRICS if metric.charted)


@dataclass(frozen=True, kw_only=True)
class SeedBand:
    """A metric of an arm at some steps. ``tokens``, ``flops`` and ``seconds`` are means over its runs up to each step;
    None: unknown, as the time of runs that shared the machine. ``mean``, ``low`` and ``high`` are over its runs."""

    metric: str
    step: list[float | None]
    tokens: list[float | None]
    flops: list[float | None]
    seconds: list[float | None]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


@dataclass(frozen=True, kw_only=True)
class ChartCurves:
    """The curves of an arm, or of one of its diverged runs. ``seeds``: the number of runs in the bands."""

    name: str
    is_baseline: bool
    diverged: bool
    seeds: int
    bands: list[SeedBand]


def chart_curves(arms: Sequence[ShownArm], curves: pd.DataFrame) -> list[ChartCurves]:
    """One for each arm with finished runs, and one for each diverged run.

    Args:
        curves: see `gptx.compare.frames.curves`.
    """
    groups: list[tuple[str, ShownArm, Sequence[RunRow], bool]] = []
    for one in arms:
        sound = [row for row in one.rows if not row.diverged]
        groups += [(one.arm.name, one, sound, False)] if sound else []
        groups += [(f"{one.arm.name}, seed {row.seed_label}", one, [row], True) for row in one.rows if row.diverged]
    bands = _bands([rows for _, _, rows, _ in groups], curves)
    return [
        ChartCurves(name=name, is_baseline=one.is_baseline, diverged=diverged, seeds=len(rows), bands=bands.get(i, []))
        for i, (name, one, rows, diverged) in enumerate(groups)
    ]


def _bands(groups: Sequence[Sequence[RunRow]], curves: pd.DataFrame) -> dict[int, list[SeedBand]]:
    """The bands of each group of runs, by its place; of steps that only some of its runs reached, none: they would
    shift the mean."""
    place = {row.run: i for i, rows in enumerate(groups) for row in rows}
    kept = curves[curves["metric"].isin([metric.curve for metric in CHARTED]) & curves["run"].isin(place)]
    kept = kept.replace([math.inf, -math.inf], math.nan).assign(group=kept["run"].map(place))
    at = kept.groupby(["group", "metric", "step"], sort=True)
    points = at.agg(
        tokens=("tokens", "mean"),
        seconds=("seconds", "mean"),
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        runs=("value", "size"),
    ).reset_index()
    found: dict[int, list[SeedBand]] = {}
    for (_, metric), frame in points.groupby(["group", "metric"], sort=False):
        whole = frame[frame["runs"] == frame["runs"].max()]
        group = int(frame["group"].iloc[0])
        found.setdefault(group, []).append(_band(str(metric), _thinned(whole), groups[group]))
    return found


def _band(metric: str, points: pd.DataFrame, rows: Sequence[RunRow]) -> SeedBand:
    flops = float(np.mean([row.metrics["flops_per_token"] for row in rows]))
    shared = any(row.result.other_runs for row in rows)  # their times do not compare
    return SeedBand(
        metric=metric,
        step=_numbers(points["step"]),
        tokens=_numbers(points["tokens"]),
        flops=_numbers(points["tokens"] * flops),
        seconds=[None] * len(points) if shared else _numbers(points["seconds"]),
        mean=_numbers(points["mean"]),
        low=_numbers(points["low"]),
        high=_numbers(points["high"]),
    )


def _thinned(frame: pd.DataFrame) -> pd.DataFrame:
    if len(frame) <= MAX_POINTS:
        return frame
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, MAX_POINTS).round().astype(int))]


def _numbers(values: "pd.Series[float]") -> list[float | None]:
    """With six digits, which a picture cannot show; None: not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
