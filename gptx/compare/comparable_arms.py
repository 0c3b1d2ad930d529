"""Which arms can be compared with a baseline, and how their sizes differ from its size."""

from collections.abc import Sequence

from gptx.compare.arms import Arm
from gptx.compare.comparability import MACHINES, PER_TOKEN, SIZE_TOLERANCE, VALIDATION_KEYS
from gptx.runs.metrics import Metric


def comparable_arms(arms: Sequence[Arm], baseline: Arm | None, metric: Metric) -> tuple[list[Arm], list[str]]:
    """The arms that can be compared with the baseline, and lines about the others."""
    kept: list[Arm] = []
    others: dict[str, list[str]] = {}
    for arm in arms:
        reason = difference(arm, baseline, metric) if baseline else ""
        if reason:
            others.setdefault(reason, []).append(arm.name)
        else:
            kept.append(arm)
    lines = []
    for reason, names in others.items():
        listed = ", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)
        lines.append(f"not compared with the baseline, because of {reason}: {listed}")
    return kept, lines


def difference(arm: Arm, baseline: Arm, metric: Metric) -> str:
    """Why an arm cannot be compared with the baseline by this metric; empty if it can."""
    one, other = arm.rows[0], baseline.rows[0]
    if metric.key in MACHINES:
        found = {getattr(row, MACHINES[metric.key]) for row in (*arm.rows, *baseline.rows)}
        return "other hardware" if len(found) > 1 else ""
    if one.result.corpus_hash != other.result.corpus_hash:
        return "another corpus"
    if metric.key in PER_TOKEN and one.result.tokenizer_hash != other.result.tokenizer_hash:
        return f"another tokenizer ({metric.title} is per token; --metric val_bpb is not)"
    if any(one.config.get(key) != other.config.get(key) for key in VALIDATION_KEYS):
        return "another validation set"
    if one.result.validation != other.result.validation and metric.key.startswith("val_"):
        return "another definition of validation metrics (an earlier version)"
    if {row.steps for row in arm.rows} != {row.steps for row in baseline.rows}:
        return "another number of steps"
    return "another number of tokens" if _tokens(arm) != _tokens(baseline) else ""


def _tokens(arm: Arm) -> set[str]:
    return {str(row.tokens) for row in arm.rows}  # as text, so that unknown numbers (NaN) are equal


def size_difference(arm: Arm, baseline: Arm) -> str:
    """How parameters and FLOPs differ from the baseline's, if by more than the tolerance."""
    parts = []
    for key, what in (("n_params", "params"), ("flops_per_token", "FLOPs")):
        own, base = arm.mean(key), baseline.mean(key)
        if own > 0 and base > 0 and abs(own / base - 1) > SIZE_TOLERANCE:
            parts.append(f"{own / base - 1:+.1%} {what}")
    return ", ".join(parts)
