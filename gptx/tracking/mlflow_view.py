"""The saved view with which MLflow's UI opens a study: a sorted table of variants, and configured charts.

MLflow stores a saved view in an experiment tag. Its format is undocumented, so mlflow is pinned and a
test opens the view in a browser. This module does not import mlflow.
"""

import base64
import json
import math
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptx.config.axes import interacting_axes, result_axes, run_name_axes
from gptx.runs.metrics import METRICS

KEY = "gptx"  # key of the view in links
TAG = f"mlflow.sharedViewState.{KEY}"
_FIRST = ("val_bpb", "val_loss", "tokens_per_s")  # first columns of the table, which is sorted by val_bpb
_METRICS = sorted(METRICS, key=lambda metric: _FIRST.index(metric.key) if metric.key in _FIRST else len(_FIRST))
_KEYS = 8  # number of parameters that a table shows, besides the seed
RUNS = 20  # number of runs, the best ones, that charts show at first
CURVES = tuple(metric.curve for metric in _METRICS if metric.charted)
_START = 0.1  # the fraction of the steps before which a curve falls too steeply to be shown
_MARGIN = 0.05  # of the range, above and below


@dataclass(frozen=True)
class ChartRange:
    """The values that a chart shows; otherwise MLflow begins at 0, where curves of one study lie on each other."""

    low: float
    high: float

    @classmethod
    def of(cls, curves: Iterable[Sequence[tuple[int, float]]]) -> "ChartRange | None":
        """The range of curves (step, value) without their steep start; None if they do not determine one."""
        values = []
        for curve in curves:
            start = _START * max((step for step, _ in curve), default=0)
            values += [value for step, value in curve if step >= start and math.isfinite(value)]
        if not values or min(values) == max(values):
            return None
        margin = _MARGIN * (max(values) - min(values))
        return cls(min(values) - margin, max(values) + margin)


def link(base: str, experiment_id: str, *, charts: bool) -> str:
    """The address of the table, or of the charts."""
    mode = "&compareRunsMode=CHART" if charts else ""
    query = f"workflowType=machine_learning&viewStateShareKey={KEY}{mode}"
    return f"{base}/#/experiments/{experiment_id}/runs?{query}"


def view(params: Iterable[Mapping[str, str]], ranges: Mapping[str, ChartRange | None] | None = None) -> str:
    """The value of the tag for a study.

    Args:
        params: the parameters of each run.
        ranges: of the charts, by the name of their curve; None: MLflow chooses it.
    """
    now, runs = time.time_ns() // 1_000_000, list(params)
    varied = _varied(runs)
    variants = {tuple(run.get(key) for key in varied if key != "seed") for run in runs}
    state = json.dumps(_state(varied, len(variants) < len(runs), ranges or {}), separators=(",", ":")).encode()
    packed = "deflate;" + base64.b64encode(zlib.compress(state, 9)).decode()
    return json.dumps({"name": "gptx", "createdAt": now, "updatedAt": now, "state": packed})


def _varied(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """The parameters that differ between the runs: axes first, then other keys, then the seed.

    A key of an option, such as ``attention.n_kv_head``, is left out if the runs differ in the option itself.
    """
    axes = [*run_name_axes(), *(axis for axis in result_axes() if axis not in run_name_axes())]
    keys = dict.fromkeys(key for run in runs for key in run)
    names = dict.fromkeys([*axes, *keys])
    differing = [key for key in names if len({run.get(key) for run in runs}) > 1 and key != "seed"]
    chosen = [key for key in differing if key in axes or key.partition(".")[0] not in differing]
    seeds = len({run.get("seed") for run in runs}) > 1
    return [*chosen[:_KEYS], *(["seed"] if seeds else [])]


def _state(varied: list[str], grouped: bool, ranges: Mapping[str, ChartRange | None]) -> dict[str, Any]:
    """The complete state of the view.

    Args:
        varied: the parameters that differ between the runs.
        grouped: whether to show the mean of each variant instead of its runs.
        ranges: see `view`.
    """
    by = [key for key in varied if key != "seed"]
    return {**_selection(), **_table(by if grouped else varied), **_run_list(), **_chart_panel(by, grouped, ranges)}


def _selection() -> dict[str, Any]:
    """Which runs are shown, and their order."""
    return {
        "searchFilter": "tags.`gptx.uid` != ''",  # not the parent runs of sweeps, which have no figures
        "orderByKey": "metrics.`final/val_bpb`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }


def _table(columns: list[str]) -> dict[str, Any]:
    names = [f"params.`{key}`" for key in columns]
    names += [f"metrics.`final/{metric.mlflow}`" for metric in _METRICS if metric.mlflow]
    return {
        "selectedColumns": ["attributes.`Run Name`", *names],
        "columnOrder": names,
        "columnWidths": {name: 36 + 7 * max(8, len(name.split("`")[1])) for name in names},
    }


def _run_list() -> dict[str, Any]:
    """The list of the runs beside the charts."""
    return {
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
    }


def _chart_panel(by: list[str], grouped: bool, ranges: Mapping[str, ChartRange | None]) -> dict[str, Any]:
    """``by``: the parameters that name a variant."""
    keys = [{"mode": "param", "groupByData": key} for key in by] or [{"mode": "tag", "groupByData": "gptx.variant"}]
    return {
        "isAccordionReordered": True,  # otherwise MLflow sorts the sections by name
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if grouped else None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": [
            _section("variants", "Variants", columns=2),
            _section("curves", "Curves", columns=3),
            *(_section(f"more-{name}", name, display=False) for name in ("final", "perf", "train", "val")),
        ],
        "compareRunCharts": _charts(by or list(interacting_axes()), ranges),
    }


def _section(uuid: str, name: str, display: bool = True, columns: int = 3) -> dict[str, Any]:
    flags = {"display": display, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": uuid, "name": name, "columns": columns, "cardHeight": 360, **flags}


def _charts(axes: list[str], ranges: Mapping[str, ChartRange | None]) -> list[dict[str, Any]]:
    speed = {"key": "final/tokens_per_s", "type": "METRIC"}
    quality = {"key": "final/val_bpb", "type": "METRIC"}
    parallel = {"selectedParams": axes, "selectedMetrics": ["final/val_bpb"], "showAllRuns": False}
    scatter = {"xaxis": speed, "yaxis": quality}
    size = {"key": "final/params", "type": "METRIC"}
    charts = [  # no bars of a loss: they begin at 0, where differences cannot be seen
        _chart("parallel", "PARALLEL", "variants", parallel),
        _chart("scatter", "SCATTER", "variants", scatter),
        _chart("size", "SCATTER", "variants", {"xaxis": size, "yaxis": quality}),
        _chart("speed", "BAR", "variants", {"metricKey": "final/tokens_per_s"}),
    ]
    line = {"lineSmoothness": 0, "xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear"}
    for key in CURVES:
        shown = {"range": {"yMin": found.low, "yMax": found.high}} if (found := ranges.get(key)) else {}
        curve = {"metricKey": key, "selectedMetricKeys": [key], **line, **shown}
        charts.append(_chart(key, "LINE", "curves", curve))
    return charts


def _chart(uuid: str, kind: str, section: str, rest: dict[str, Any]) -> dict[str, Any]:
    place = {"uuid": uuid, "type": kind, "metricSectionId": section}
    return {**place, "runsCountToCompare": RUNS, "deleted": False, "isGenerated": False, **rest}
