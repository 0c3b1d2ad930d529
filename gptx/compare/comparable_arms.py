"""Which arms can be compared with a baseline, and how their sizes differ from its size."""

import math
from collections.abc import Callable, Sequence

from gptx.compare.arms import Arm
from gptx.compare.comparability import MACHINES, PER_TOKEN, SIZE_TOLERANCE, SPEEDS, VALIDATION_KEYS
from gptx.compare.run_rows import RunRow
from gptx.runs.metrics import BY_KEY, Metric

BITS_OF_ALL_TEXT = BY_KEY["val_bpb_whole"]  # the metric that compares tokenizers


def comparable_arms(arms: Sequence[Arm], baseline: Arm | None, metric: Metric) -> tuple[list[Arm], list[str]]:
    """The arms that can be compared with the baseline, and lines about the others."""
    if baseline is None:
        return list(arms), []
    if reason := own_problem(baseline, metric):
        return [], [f"nothing is compared with the baseline {baseline.name}: {reason}; --baseline chooses another"]
    kept: list[Arm] = []
    others: dict[str, list[str]] = {}
    for arm in arms:
        if reason := own_problem(arm, metric):
            others.setdefault(f"not compared: {reason}", []).append(arm.name)
        elif reason := difference(arm, baseline, metric):
            others.setdefault(f"not compared with the baseline, because of {reason}", []).append(arm.name)
        else:
            kept.append(arm)
    return kept, [f"{reason}: {_listed(names)}" for reason, names in others.items()]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)


def own_problem(arm: Arm, metric: Metric) -> str:
    """Why an arm cannot be compared with any other by this metric; empty if it can."""
    if not any(row.diverged or row.measures(metric) for row in arm.rows):
        return f"{metric.title} was not measured"
    if metric.key in SPEEDS and any(row.other_runs for row in arm.rows):
        return "runs shared the machine with other runs"
    for what, value in _conditions(metric).items():
        if len({value(row) for row in arm.rows}) > 1:
            return f"its runs differ in the {what}"
    several = metric.key not in MACHINES and len({_tokenizer(row) for row in arm.rows}) > 1
    return "its runs differ in the tokenizer" if several and _other_text(arm.rows, metric) else ""


def difference(arm: Arm, baseline: Arm, metric: Metric) -> str:
    """Why an arm cannot be compared with the baseline by this metric; empty if it can."""
    for what, value in _conditions(metric).items():
        if value(arm.rows[0]) != value(baseline.rows[0]):
            return f"{'other' if what == 'hardware' else 'another'} {what}"
    several = metric.key not in MACHINES and _tokenizer(arm.rows[0]) != _tokenizer(baseline.rows[0])
    if several and (reason := _other_text([*arm.rows, *baseline.rows], metric)):
        return f"another tokenizer ({reason})"
    if metric.key not in MACHINES or metric.key == "seconds":
        if _budget(arm, lambda row: row.steps) != _budget(baseline, lambda row: row.steps):
            return "another number of steps"
        if _budget(arm, lambda row: row.tokens) != _budget(baseline, lambda row: row.tokens):
            return "another number of tokens"
    return ""


def _conditions(metric: Metric) -> dict[str, Callable[[RunRow], object]]:
    """What has to be equal in all runs that are compared, by its name."""
    if metric.key in MACHINES:
        machine = MACHINES[metric.key]
        equal: dict[str, Callable[[RunRow], object]] = {machine: lambda row: getattr(row, machine)}
        if metric.key in SPEEDS:
            equal["number of CPU threads per process"] = lambda row: row.threads
        return equal
    equal = {"corpus": lambda row: row.result.corpus_hash}
    equal["validation set"] = lambda row: str([row.config.get(key) for key in VALIDATION_KEYS])
    if metric.key.startswith("val_"):
        equal["definition of validation metrics (an earlier version)"] = lambda row: row.result.validation
    return equal


def _tokenizer(row: RunRow) -> str:
    return row.result.tokenizer_hash


def _other_text(rows: Sequence[RunRow], metric: Metric) -> str:
    """Why a metric of runs with different tokenizers is not of the same text; empty if it is."""
    whole, condition = f"--metric {BITS_OF_ALL_TEXT.key}", ", if trainer.val_tokens=0" * (not same_text(rows))
    if metric.key in PER_TOKEN:
        return f"{metric.title} is per token; {whole} can be compared{condition}"
    if condition:
        return f"the validation texts differ; {whole} can be compared{condition}"
    before_halves = {row.result.validation for row in rows} == {2}
    if metric is BITS_OF_ALL_TEXT or before_halves:
        return ""
    return f"the report half may be another text; {whole} can be compared"


def same_text(rows: Sequence[RunRow]) -> bool:
    """Whether all runs were validated on all of the validation split, whatever their tokenizers. Version 1 left out
    the last incomplete row."""
    return all(row.config.get("trainer.val_tokens") == 0 and row.result.validation > 1 for row in rows)


def _budget(arm: Arm, value: Callable[[RunRow], float]) -> list[float]:
    """The steps or tokens of an arm: one number if all runs have the same, else that of each run, sorted. Unknown
    numbers are equal."""
    found = sorted(-1.0 if math.isnan(value(row)) else value(row) for row in arm.rows)
    return found[:1] if found[0] == found[-1] else found


def size_difference(arm: Arm, baseline: Arm) -> str:
    """How parameters and FLOPs differ from the baseline's, if by more than the tolerance."""
    parts = []
    for key, what in (("n_params", "params"), ("flops_per_token", "FLOPs")):
        own, base = arm.mean(key), baseline.mean(key)
        if own > 0 and base > 0 and abs(own / base - 1) > SIZE_TOLERANCE:
            parts.append(f"{own / base - 1:+.1%} {what}")
    return ", ".join(parts)
