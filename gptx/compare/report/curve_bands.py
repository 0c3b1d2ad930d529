"""The curves of arms for charts: mean and range over the seeds at each step, at most `MAX_POINTS` points a curve."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gptx.compare.report.shown_arms import ShownArm
from gptx.compare.run_rows import RunRow
from gptx.runs.metrics import METRICS

MAX_POINTS = 200
CHARTED = tuple(metric for metric in METRICS if metric.charted)


@dataclass(frozen=True, kw_only=True)
class Band:
    """A metric of an arm at some steps. ``tokens``, ``flops`` and ``seconds`` are means over its runs up to each step;
    None: unknown, as the time of
    runs that shared the machine. ``mean``, ``low`` and ``high`` are over its runs."""

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
    bands: list[Band]


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
    kept = curves[curves["metric"].isin([metric.curve for metric in CHARTED])]
    by_run = {str(run): frame for run, frame in kept.groupby("run", sort=False)}
    return [
        ChartCurves(
            name=name,
            is_baseline=one.is_baseline,
            diverged=diverged,
            seeds=len(rows),
            bands=list(_bands(rows, by_run)),
        )
        for name, one, rows, diverged in groups
    ]


def _bands(rows: Sequence[RunRow], by_run: dict[str, pd.DataFrame]) -> Iterable[Band]:
    found = [by_run[row.run] for row in rows if row.run in by_run]
    if not found:
        return
    flops = float(np.mean([row.metrics["flops_per_token"] for row in rows]))
    shared = any(row.result.other_runs for row in rows)  # their times do not compare
    together = pd.concat(found).replace([math.inf, -math.inf], math.nan)
    for metric, points in together.groupby("metric", sort=False):
        at = points.groupby("step")
        values = at["value"].agg(["mean", "min", "max", "size"])
        means = at[["tokens", "seconds"]].mean()
        whole = values["size"] == values["size"].max()  # steps that only some seeds reached would shift the mean
        values, means = _thinned(values[whole]), _thinned(means[whole])
        yield Band(
            metric=str(metric),
            step=[float(step) for step in values.index],
            tokens=_numbers(means["tokens"]),
            flops=_numbers(means["tokens"] * flops),
            seconds=[None] * len(means) if shared else _numbers(means["seconds"]),
            mean=_numbers(values["mean"]),
            low=_numbers(values["min"]),
            high=_numbers(values["max"]),
        )


def _thinned(frame: pd.DataFrame) -> pd.DataFrame:
    if len(frame) <= MAX_POINTS:
        return frame
    return frame.iloc[np.unique(np.linspace(0, len(frame) - 1, MAX_POINTS).round().astype(int))]


def _numbers(values: "pd.Series[float]") -> list[float | None]:
    """With six digits, which a picture cannot show; None: not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
