"""The strategy as the null factor: it distributes the same computation, so it must not change the result."""

import math
from typing import TYPE_CHECKING

import pandas as pd

from gptx.compare.arms import Arm
from gptx.compare.findings import StrategyCheck, StrategyDifference
from gptx.compare.metric_choice import is_val_loss
from gptx.compare.run_rows import RunRow
from gptx.statistics.verdict import Verdict

if TYPE_CHECKING:
    from gptx.compare.comparison import Comparison

FIRST_STEPS = 20
LARGEST = 1e-5  # relative difference of float32 training losses that another order of summation explains
_LOSS = "train/loss"


def strategy_check(comparison: "Comparison") -> StrategyCheck:
    """Compare arms that differ in the strategy only: their training losses in the first 20 steps, seed by seed, and
    their final losses. Dropout is excepted, because each process draws its own masks."""
    pairs = _pairs(comparison)
    differences = tuple(one for arm, reference in pairs for one in _differences(comparison, arm, reference))
    suspected = [*_early(differences), *_final(comparison, pairs)]
    return StrategyCheck(differences=differences, suspected=tuple(suspected))


def _pairs(comparison: "Comparison") -> list[tuple[Arm, Arm]]:
    """Each arm that differs in the strategy only from an earlier one, with the first such arm; the baseline is the
    first of all."""
    first: dict[str, Arm] = {}
    pairs = []
    for arm in comparison.compared if any("strategy" in arm.values for arm in comparison.compared) else ():
        row = arm.rows[0]
        reference = first.setdefault(row.key(without="strategy"), arm)
        if reference is not arm and not row.value("model.dropout"):
            pairs.append((arm, reference))
    return pairs


def _differences(comparison: "Comparison", arm: Arm, reference: Arm) -> list[StrategyDifference]:
    rows = {row.seed_label: row for row in reference.rows}
    pairs = [(row, rows[row.seed_label]) for row in arm.rows if row.seed_label in rows]
    return [_difference(comparison, arm, row, reference, other) for row, other in pairs]


def _difference(comparison: "Comparison", arm: Arm, row: RunRow, reference: Arm, other: RunRow) -> StrategyDifference:
    own, base = (_first_losses(comparison.found.curves_of(one.run)) for one in (row, other))
    found = {step: abs(own[step] / base[step] - 1) for step in own if base.get(step)}
    at = max(found, key=lambda step: found[step], default=0)
    return StrategyDifference(
        arm=arm.name,
        reference=reference.name,
        seed=str(row.seed_label),
        first=found.get(at, math.nan),
        at=at,
        steps=len(found),
        fp32={row.result.dtype, other.result.dtype} == {"float32"},
    )


def _first_losses(points: pd.DataFrame) -> dict[int, float]:
    """{step: training loss} of the first steps."""
    points = points[(points["metric"] == _LOSS) & (points["step"] <= FIRST_STEPS)]
    return dict(zip(map(int, points["step"]), map(float, points["value"]), strict=True))


def _early(differences: tuple[StrategyDifference, ...]) -> list[str]:
    """One line for each pair of arms whose first losses differ by more than rounding."""
    worst: dict[tuple[str, str], StrategyDifference] = {}
    for one in differences:
        known = worst.get((one.arm, one.reference))
        if one.fp32 and one.first > max(LARGEST, known.first if known else 0.0):
            worst[one.arm, one.reference] = one
    return [
        f"suspected bug: the strategy must not change the training, but the training loss of {one.arm} differs by "
        f"{one.first:.1e} (relative) from that of {one.reference} at step {one.at} (seed {one.seed}, float32, in which "
        f"rounding explains {LARGEST:.0e})"
        for one in worst.values()
    ]


def _final(comparison: "Comparison", pairs: list[tuple[Arm, Arm]]) -> list[str]:
    """One line for each arm with another final loss than the baseline, from which only its strategy differs."""
    baseline = comparison.baseline
    if baseline is None or not is_val_loss(comparison.metric):
        return []
    same = {arm.name for arm, reference in pairs if reference.name == baseline.name}
    return [
        f"suspected bug: the strategy must not change the loss, but {one.arm.name} ends {one.effect.verdict} than "
        f"{baseline.name}"
        for one in comparison.arms
        if one.arm.name in same and one.effect.verdict in (Verdict.BETTER, Verdict.WORSE)
    ]
