"""Names of variants and formatted numbers for the comparison."""

import math
from collections.abc import Hashable, Mapping

import pandas as pd

from gptx.config.axes import run_name_axes
from gptx.runs.metrics import METRICS, Metric
from gptx.runs.units import human

SHOWN = tuple(metric for metric in METRICS if metric.in_table)


def axes(summary: pd.DataFrame) -> list[str]:
    """The columns of a summary that name the variant."""
    columns = [str(column) for column in summary.columns]
    end = columns.index("status") if "status" in columns else columns.index("n")
    return columns[:end]


def variant_name(row: Mapping[Hashable, object], names: list[str], gap: str = " ") -> str:
    """A variant's name, such as "gqa·rope·full·ddp model.n_layer=4". A newline as ``gap`` makes it narrow."""
    one, two, three, four = (plain(row[axis]) for axis in run_name_axes())
    name = f"{one}·{two}·{gap.strip(' ')}{three}·{four}"
    rest = [f"{k}={short(k, plain(row[k]))}" for k in names if k not in run_name_axes() and row[k] is not None]
    return gap.join([name, *rest])


def titled(summary: pd.DataFrame, corpus: str) -> tuple[pd.DataFrame, str]:
    """The rows of one corpus, and a title with the values that all share; these are removed from the columns."""
    part = summary[summary["corpus_hash"] == corpus]
    shared = [k for k in axes(part) if k not in run_name_axes() and len({str(value) for value in part[k]}) == 1]
    values = {k: part[k].iloc[0] for k in shared if k not in ("data", "corpus_hash")}
    common = [f"{k}={value}" for k, value in values.items() if value is not None]
    title = " · ".join([str(part["data"].iloc[0] or "corpus"), corpus[:8], *common])
    return part.drop(columns=shared), title


def figure(metric: Metric, value: float, scale_of: float | None = None) -> str:
    """Format a value of a metric for a table; ``scale_of``: see `human`."""
    if math.isnan(value) or metric.prefix:
        return human(value, metric.symbol, scale_of)
    return f"{value:.{metric.digits}f}"


def count(n: int, what: str) -> str:
    """A number with its noun, such as "1 run" or "2 runs"."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def short(name: str, text: str) -> str:
    """A value for reading: hashes have eight digits."""
    return text[:8] if name.endswith("_hash") else text


def plain(value: object) -> str:
    """A value as text; empty for None."""
    return "" if value is None else str(value)
