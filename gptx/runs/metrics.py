"""The table of metrics: comparison tables, MLflow names, saved views, summaries and searches are made from it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from gptx.runs.records import Result
from gptx.runs.units import human


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a run.

    Attributes:
        key: the field of `gptx.runs.records.Result`, and the key in result.json.
        title: heading of its column in tables.
        unit: unit of the value times ``scale``.
        scale: MLflow and summaries show the value times this.
        digits: decimals that they show.
        higher_is_better: else lower is better.
        prefix: tables show it with a decimal prefix, such as 1.23M; else with four decimals.
        symbol: unit that follows the prefix, such as B.
        in_table: whether comparisons show it; else it is in their files only.
        curve: its key in the journal's metrics records; "": it has one value only.
        charted: whether the saved view of MLflow shows a chart of the curve.
        mlflow: its name in MLflow after ``final/``, short because MLflow truncates headings; "": it is not sent.
        view: the ending of its key, if it is another view of a validation metric, see `VIEWS`; else "".
    """

    key: str
    title: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 4
    higher_is_better: bool = False
    prefix: bool = False
    symbol: str = ""
    in_table: bool = False
    curve: str = ""
    charted: bool = False
    mlflow: str = ""
    view: str = ""

    @property
    def best(self) -> Callable[[Iterable[float]], float]:
        """The function that picks the best of several values."""
        return max if self.higher_is_better else min

    def value(self, result: Result) -> float | None:
        """The value in a result; None if it was not measured."""
        value: float | None = getattr(result, self.key)
        return None if value is None or math.isnan(value) else value

    def text(self, value: float) -> str:
        """The value with its unit, such as ``3.0649 nats/token`` or ``359 MB``."""
        if self.symbol:
            return human(value, self.symbol) + "/token" * self.unit.endswith("/token")
        return f"{value * self.scale:,.{self.digits}f} {self.unit}".rstrip()


# Validation metrics are those of the last validation on the report half. These are their other views.
VIEWS = {"select": "selection half", "whole": "whole", "best": "best weights"}


def _with_views(metric: Metric, *views: str) -> tuple[Metric, ...]:
    return metric, *(
        replace(
            metric,
            key=f"{metric.key}_{view}",
            title=f"{metric.title}, {VIEWS[view]}",
            in_table=False,
            charted=False,
            curve=f"{metric.curve}_{view}" if view != "best" else "",
            mlflow=f"{metric.mlflow}_{view}" if view == "best" else "",
            view=view,
        )
        for view in views
    )


_LOSS, _BITS, _ACCURACY, _PERPLEXITY = (
    Metric(
        key="val_loss",
        title="val loss",
        unit="nats/token",
        in_table=True,
        curve="val/loss",
        charted=True,
        mlflow="val_loss",
    ),
    Metric(
        key="val_bpb",
        title="bits/byte",
        unit="bits/byte",
        in_table=True,
        curve="val/bpb",
        charted=True,
        mlflow="val_bpb",
    ),
    Metric(key="val_accuracy", title="accuracy", higher_is_better=True, curve="val/accuracy", mlflow="val_acc"),
    Metric(key="val_perplexity", title="perplexity", curve="val/perplexity"),
)
METRICS = (
    *_with_views(_LOSS, *VIEWS),
    *_with_views(_BITS, *VIEWS),
    Metric(key="n_params", title="params", digits=0, prefix=True, in_table=True, mlflow="params"),
    Metric(
        key="tokens_per_s",
        title="tokens/s",
        unit="tokens/s",
        digits=0,
        higher_is_better=True,
        prefix=True,
        in_table=True,
        curve="perf/tokens_per_s",
        mlflow="tokens_per_s",
    ),
    Metric(
        key="peak_memory_bytes",
        title="peak memory",
        unit="MB",
        scale=1e-6,
        digits=1,
        prefix=True,
        symbol="B",
        in_table=True,
        mlflow="mem_mb",
    ),
    Metric(
        key="kv_bytes_per_token",
        title="KV/token",
        unit="bytes/token",
        digits=0,
        prefix=True,
        symbol="B",
        in_table=True,
        mlflow="kv_B_tok",
    ),
    Metric(key="flops_per_token", title="FLOPs/token", unit="FLOPs/token", digits=0, prefix=True, in_table=True),
    *_with_views(_ACCURACY, "select"),
    *_with_views(_PERPLEXITY, "select"),
    Metric(key="train_loss", title="train loss", unit="nats/token", curve="train/loss", charted=True),
    Metric(key="seconds", title="seconds", unit="s", digits=1, prefix=True, mlflow="seconds"),
)
BY_KEY = {metric.key: metric for metric in METRICS}
CURVES = {metric.key: metric.curve for metric in METRICS if metric.curve}


def selection(key: str, result: Result) -> float | None:
    """The value of a metric by which runs are chosen, else None: that of the selection half, so that nothing is chosen
    on the figures that are compared. Runs of earlier versions and other metrics have one value only."""
    half = BY_KEY.get(f"{key}_select")
    return (BY_KEY[key] if half is None or getattr(result, half.key) is None else half).value(result)


def selection_curve(key: str, values: Mapping[str, float]) -> float | None:
    """The value of a metric by which runs are chosen, in a metrics record of the journal, see `selection`."""
    curve = CURVES[key]
    return values.get(f"{curve}_select", values.get(curve))
