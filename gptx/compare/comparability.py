"""Warnings about rows of a comparison that are not comparable or not plausible."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from gptx.compare.formatting import SHOWN, axes, count, figure, plain, titled, variant_name
from gptx.compare.run_rows import RunRow, selected, status_counts
from gptx.compare.summary import is_finished
from gptx.config.axes import run_name_axes
from gptx.runs.auto_seed_runs import sweeps_until_decided
from gptx.runs.metrics import BY_KEY, METRICS, Metric
from gptx.runs.provenance import outputs_option

VALIDATION_KEYS = ("trainer.val_tokens", "data.val_fraction", "model.context")
_PER_TOKEN = ("val_loss", "val_accuracy", "val_perplexity", "train_loss")
PER_TOKEN = tuple(metric.key for metric in METRICS if metric.key.startswith(_PER_TOKEN))  # depend on the tokenizer
SPEEDS = ("tokens_per_s", "seconds")
MACHINES = {"tokens_per_s": "hardware", "seconds": "hardware", "peak_memory_bytes": "device"}  # what they depend on
SIZE_TOLERANCE = 0.01  # relative difference of parameters or FLOPs up to which arms are equal, as in conf/match
_FP32, _LOW = 1e-3, 1e-2  # largest relative difference between strategies that rounding explains, by precision


def warnings(rows: Iterable[RunRow], summary: pd.DataFrame) -> list[str]:
    """One line for each reason why rows of a summary are not comparable or not plausible."""
    rows = list(rows)
    counted = selected(rows)
    out = [row.problem for row in rows if row.problem]
    repeats = status_counts(rows).get("finished", 0) - len(counted)
    if repeats:
        out.append(f"{count(repeats, 'run')} left out: a newer run has the same variant and seed")
    ended = summary.loc[is_finished(summary)]
    parts = [part for _, part in ended.groupby("corpus_hash", sort=False)]
    if len(parts) > 1:
        texts = sorted(f"{part['data'].iloc[0]} {str(part['corpus_hash'].iloc[0])[:8]}" for part in parts)
        out.append(f"different corpora ({', '.join(texts)}): compare figures within one table only")
    for part in parts:
        where = f"{part['data'].iloc[0]}: " if len(parts) > 1 else ""
        named = titled(part, str(part["corpus_hash"].iloc[0]))[0] if len(parts) > 1 else part
        out += [
            where + line for line in (*_budgets(part), *_seed_sets(named), *_sizes(named, counted), *_measures(part))
        ]
    out += _speeds(counted)
    return (
        out
        + added_seeds(counted)
        + _failed_checks(counted)
        + _gaps(counted)
        + _codes(counted)
        + _validations(counted)
        + _strategies(counted)
    )


def added_seeds(rows: list[RunRow]) -> list[str]:
    """Sweeps that added seeds until their arms were decided, so that the number of seeds is not a fixed one."""
    return [
        "seeds were added until the arms were decided (sweep.seeds=auto): intervals and verdicts for a fixed number of "
        f"seeds are too sure; `gptx sweep collect {sweep.name}{outputs_option(sweep.parent.parent)}` shows valid ones"
        for sweep in sweeps_until_decided(Path(row.run) for row in rows)
    ]


def _failed_checks(rows: list[RunRow]) -> list[str]:
    """Properties that variants of the user lack, which were trained with runtime.unproven=true."""
    found = Counter(line for row in rows for line in row.result.failed_checks)
    return [f"not a fair comparison: {line} (in {count(n, 'run')})" for line, n in found.items()]


def _gaps(rows: list[RunRow]) -> list[str]:
    """Metrics that some runs lack; their means are over fewer runs than n."""
    lacks = {m.title: sum(math.isnan(row.metrics[m.key]) for row in rows) for m in SHOWN}
    return [f"{head} is missing in {n} of {count(len(rows), 'run')}" for head, n in lacks.items() if n]


def _codes(rows: list[RunRow]) -> list[str]:
    """Modules of the user whose source hash differs between runs."""
    hashes: dict[str, Counter[str]] = {}
    for row in rows:
        for name, digest in row.result.code.items():
            hashes.setdefault(name, Counter())[digest] += 1
    return [
        f"different code: {name} was changed between runs ({' and '.join(map(str, found.values()))} of them)"
        for name, found in sorted(hashes.items())
        if len(found) > 1
    ]


def _validations(rows: list[RunRow]) -> list[str]:
    """Runs that were validated by other definitions than the others, see `gptx.runs.records.VALIDATION`."""
    versions = Counter(row.result.validation for row in rows)
    if len(versions) < 2:
        return []
    differences = {
        1: "end-of-text tokens had no bytes and the last incomplete row was left out of all losses "
        "(trainer.val_tokens=0)",
        2: "validation metrics are the best of all validations, on the whole validation set",
        3: "validation metrics are the last ones, on the report half",
    }
    found = [f"in {count(n, 'run')} {differences.get(version, version)}" for version, n in sorted(versions.items())]
    return [f"different definitions of validation metrics: {'; '.join(found)}: these runs are not comparable"]


def _budgets(part: pd.DataFrame) -> list[str]:
    out = []
    for name in ("steps", "tokens"):
        found = sorted(_all(part, name))
        if len(found) > 1:
            each = ", ".join(f"{x:,}" for x in found)
            out.append(f"different budgets: {name} {each if len(found) < 5 else f'{found[0]:,} to {found[-1]:,}'}")
    if len(set(part["tokenizer_hash"])) > 1:
        out.append(
            "different tokenizers: val loss is per token and not comparable; bits/byte of the whole validation set "
            "(val_bpb_whole) is, if trainer.val_tokens=0"
        )
    if differing := _validation_keys(part):
        out.append(f"different validation sets ({', '.join(differing)}): losses are not comparable")
    return out


def _validation_keys(part: pd.DataFrame) -> list[str]:
    """The differing keys that choose the validation text."""
    return [name for name in axes(part) if name.startswith(VALIDATION_KEYS)]


def _all(part: pd.DataFrame, column: str) -> set[Any]:
    """All values of a column of lists."""
    return {value for values in part[column] for value in values}


def _seed_sets(part: pd.DataFrame) -> list[str]:
    by_seeds: dict[str, list[str]] = {}
    for row in part.to_dict("records"):
        by_seeds.setdefault(", ".join(map(str, row["seeds"])), []).append(variant_name(row, axes(part)))
    if len(by_seeds) < 2:
        return []
    found = sorted(by_seeds.items(), key=lambda item: (-len(item[1]), item[0]))
    sets = (f"{seeds} in {', '.join(v) if len(v) < 3 else f'{len(v)} variants'}" for seeds, v in found)
    return [f"different seeds: {'; '.join(sets)}"]


def _sizes(part: pd.DataFrame, rows: list[RunRow]) -> list[str]:
    """How far the largest and the smallest variant differ in parameters and FLOPs. After `match`, only the quantity
    that it made equal is checked."""
    matched = {row.result.variant.get("match", "none") for row in rows}
    keys = {"params": ("n_params",), "flops": ("flops_per_token",)}.get(
        matched.pop() if len(matched) == 1 else "none", ("n_params", "flops_per_token")
    )
    found = [line for key in keys if (line := _largest_difference(part, BY_KEY[key]))]
    if not found:
        return []
    return [f"variants of different size: {'; '.join(found)}; match=params or match=flops makes them equal"]


def _largest_difference(part: pd.DataFrame, metric: Metric) -> str:
    """The smallest and the largest variant, if they differ by more than the tolerance."""
    sized = part[part[f"{metric.key}_mean"] > 0].sort_values(f"{metric.key}_mean", kind="stable")
    if sized.empty:
        return ""
    small, large = sized.iloc[0].to_dict(), sized.iloc[-1].to_dict()
    low, high = small[f"{metric.key}_mean"], large[f"{metric.key}_mean"]
    if high / low - 1 <= SIZE_TOLERANCE:
        return ""
    ends = ((low, small), (high, large))
    texts = (f"{figure(metric, value)} ({variant_name(row, axes(part))})" for value, row in ends)
    return f"{metric.title} {' to '.join(texts)}, {high / low - 1:.1%} more"


def comparable(summary: pd.DataFrame, metric: Metric) -> bool:
    """Whether the rows of a summary can be ranked by a metric: losses with equal budgets, validation sets and
    tokenizers; speeds and memory on equal machines. Speeds also need equal numbers of threads, and no other runs."""
    if metric.exact:
        return True
    if metric.key in SPEEDS and (len(_all(summary, "threads")) > 1 or any(_all(summary, "other_runs"))):
        return False
    if metric.key in MACHINES:
        return len(_all(summary, MACHINES[metric.key])) < 2
    if len(set(summary["tokenizer_hash"])) > 1:  # also bits per byte: the report half may be another text
        return False
    budgets = (_all(summary, name) for name in ("steps", "tokens"))
    return all(len(found) < 2 for found in budgets) and not _validation_keys(summary)


def has_one_seed(summary: pd.DataFrame) -> bool:
    """Whether a variant has one finished run only, so that nothing is known about its noise."""
    return bool((summary.loc[is_finished(summary), "n"] < 2).any())


def _measures(part: pd.DataFrame) -> list[str]:
    hardware, devices = _all(part, "hardware"), _all(part, "device")
    if len(hardware) < 2:
        return []
    what = "tokens/s and peak memory are" if len(devices) > 1 else "tokens/s is"
    return [f"different hardware ({'; '.join(sorted(hardware))}): {what} not comparable"]


def _speeds(rows: list[RunRow]) -> list[str]:
    """Runs whose speeds were measured with other numbers of CPU threads, or beside other runs."""
    threads = Counter(row.threads for row in rows if row.threads)
    shared = [row.other_runs for row in rows if row.other_runs]
    out = []
    if len(threads) > 1:
        used = ", ".join(f"{count(n, 'run')} used {number}" for number, n in sorted(threads.items()))
        out.append(f"tokens/s is not comparable: {used} CPU threads per process")
    if shared:
        which = f"{len(shared)} of {count(len(rows), 'run')}"
        out.append(
            f"tokens/s is not comparable: {which} shared the machine with up to {count(max(shared), 'other run')}"
        )
    return out


def _strategies(rows: list[RunRow]) -> list[str]:
    """Runs that differ in the strategy only and end with different losses. Such runs must agree up to rounding, except
    with dropout, because each process draws its own dropout masks."""
    alike: dict[tuple[str, int | str], list[RunRow]] = {}
    for row in rows:
        if row.finished and _loss(row) > 0 and not row.value("model.dropout"):
            alike.setdefault((row.key(without="strategy"), row.seed_label), []).append(row)
    pairs = [(min(same, key=_loss), max(same, key=_loss)) for same in alike.values()]
    pairs = [
        (low, high) for low, high in pairs if _excess(low, high) > (_FP32 if low.result.dtype == "float32" else _LOW)
    ]
    if not pairs:
        return []
    low, high = max(pairs, key=lambda pair: _excess(*pair))
    axes = (axis for axis in run_name_axes() if axis != "strategy")
    name = "·".join(plain(low.value(axis)) for axis in axes) + f", seed {low.seed_label}"
    more = f", and {count(len(pairs) - 1, 'other pair')}" if len(pairs) > 1 else ""
    return [
        f"the strategy must not change the loss, but {high.value('strategy')} ends {_excess(low, high):.2%} above "
        f"{low.value('strategy')} ({name}: {_loss(high):.4f} against {_loss(low):.4f}{more}): this indicates a bug"
    ]


def _loss(row: RunRow) -> float:
    return row.metrics["val_loss"]


def _excess(low: RunRow, high: RunRow) -> float:
    """The relative difference of two losses: high / low - 1."""
    return _loss(high) / _loss(low) - 1
