"""One row for each variant: mean and standard deviation of its runs' metrics.

A variant is everything that decides a result except the seeds: its runs differ in seed and data_seed only. Values
have the units of `gptx.runs.metrics`; `gptx.compare.render` formats them.
"""

import math
import statistics
from collections.abc import Iterable
from typing import Any

import pandas as pd

from gptx.compare.run_rows import RunRow, frozen, selected
from gptx.config.axes import run_name_axes
from gptx.runs.metrics import METRICS
from gptx.runs.records import RunStatus

_FIGURES = [f"{metric.key}_{what}" for metric in METRICS for what in ("mean", "sd")]
_LISTS = ("hardware", "device", "threads", "other_runs", "steps", "tokens")
_SIMPLE = {str, int, float, bool, type(None)}
_TAIL = ("data", "corpus_hash", "tokenizer_hash", *_LISTS, "runs")


def summarise(rows: Iterable[RunRow], *, all_keys: bool = False, include_unfinished: bool = False) -> pd.DataFrame:
    """One row for each variant, lowest bits per byte first.

    Columns: the axes and keys that name the variant, n, seeds, <metric>_mean and <metric>_sd (sample standard
    deviation, NaN for one seed), data, corpus_hash, tokenizer_hash, sorted lists of hardware, device, threads,
    other_runs (that shared the machine), steps and tokens, and the run folders.

    Args:
        all_keys: also show the keys that only differ between options.
        include_unfinished: show unfinished runs in separate rows, and add a column ``status``.
    """
    counted = selected(rows, include_unfinished=include_unfinished)
    groups: dict[tuple[str, str], list[RunRow]] = {}
    for row in counted:
        groups.setdefault((row.key(), row.status), []).append(row)
    names = distinguishing_keys(counted, all_keys=all_keys)
    variants = [_variant(group, names, include_unfinished) for group in groups.values()]
    variants.sort(key=lambda v: (v.get("status", "finished") != "finished", _nan_last(v["val_bpb_mean"]), v["runs"]))
    columns = [*names, *(["status"] if include_unfinished else []), "n", "seeds", *_FIGURES]
    columns += [name for name in _TAIL if name not in names]
    # dtype object first: otherwise pandas turns a column of 64 and None into 64.0 and NaN
    return pd.DataFrame(variants, columns=columns, dtype=object).astype({"n": int, **dict.fromkeys(_FIGURES, float)})


def _variant(group: list[RunRow], names: list[str], with_status: bool) -> dict[str, Any]:
    group = sorted(group, key=lambda row: (row.seed, row.data_seed))
    first = group[0]
    out: dict[str, Any] = {"data": first.variant.get("data", ""), **{name: first.value(name) for name in names}}
    if with_status:
        out["status"] = str(first.status)
    out |= {"n": len(group), "seeds": [row.seed_label for row in group]}
    for metric in METRICS:
        values = [row.metrics[metric.key] for row in group if not math.isnan(row.metrics[metric.key])]
        out[f"{metric.key}_mean"] = statistics.mean(values) if values else math.nan
        out[f"{metric.key}_sd"] = statistics.stdev(values) if len(values) > 1 else math.nan
    for name in _LISTS:
        out[name] = sorted({_whole(getattr(row, name)) for row in group if getattr(row, name) == getattr(row, name)})
    out |= {name: first.value(name) for name in ("corpus_hash", "tokenizer_hash", "dtype")}
    return {**out, "runs": [row.run for row in group]}


def distinguishing_keys(rows: list[RunRow], *, all_keys: bool = False) -> list[str]:
    """Names of the variant: the axes of run names, other axes that differ, and keys that differ within an option."""
    axes = sorted({axis for row in rows for axis in row.variant})
    names = [*(always := run_name_axes()), *(axis for axis in axes if axis not in always and differs(rows, axis))]
    keys = [key for key in sorted({key for row in rows for key in row.config}) if differs(rows, key)]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for key in sorted(keys, key=lambda key: (not key.startswith("model."), key)):
        # an interpolation such as attention.d_model: ${model.d_model} repeats the values of another key
        copy = (key.rsplit(".", 1)[-1], tuple(frozen(row.value(key)) for row in rows))
        if all_keys or (copy not in seen and _differs_within_option(rows, key)):
            names.append(key)
        seen.add(copy)
    if len({row.result.corpus_hash for row in rows}) > 1 and "data" not in names:
        names.append("corpus_hash")  # one option, several texts (data.path)
    return names


def _differs_within_option(rows: list[RunRow], key: str) -> bool:
    """Whether the key differs among runs with the same option of its group."""
    by_option: dict[str, list[RunRow]] = {}
    for row in rows:
        by_option.setdefault(row.variant.get(key.split(".")[0], ""), []).append(row)
    return any(differs(same, key) for same in by_option.values())


def differs(rows: list[RunRow], name: str) -> bool:
    values = [row.value(name) for row in rows]
    kinds = set(map(type, values))
    if len(kinds) == 1 and kinds <= _SIMPLE:  # much faster than the general way
        return len(set(values)) > 1
    return len(set(map(frozen, values))) > 1


def is_finished(summary: pd.DataFrame) -> list[bool]:
    """A boolean for each row of a summary: whether its runs finished."""
    return [s == RunStatus.FINISHED for s in summary["status"]] if "status" in summary else [True] * len(summary)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
