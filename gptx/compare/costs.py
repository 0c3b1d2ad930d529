"""What arms cost, and which of them are on the Pareto front of the compared metric and each cost."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gptx.compare.arms import Arm
from gptx.compare.comparability import MACHINES, SPEEDS
from gptx.compare.findings import ArmCost, FrontPlace
from gptx.compare.training_curves import seconds_problem
from gptx.runs.metrics import BY_KEY, Metric
from gptx.statistics.effects import Effects
from gptx.statistics.verdict import Verdict

if TYPE_CHECKING:
    from gptx.compare.comparison import Comparison

MOST_ARMS = 20  # with more arms, all pairs are many: those off the front by their means are off it
COSTS = ("tokens_per_s", "peak_memory_bytes", "flops_per_token", "kv_bytes_per_token")


def arm_costs(comparison: "Comparison") -> tuple[ArmCost, ...]:
    """For each arm, baseline included, and each cost."""
    return tuple(one for key in COSTS if key != comparison.metric.key for one in _of_key(comparison, BY_KEY[key]))


def _of_key(comparison: "Comparison", cost: Metric) -> list[ArmCost]:
    arms = comparison.compared
    values = {arm.name: _mean(comparison, arm) for arm in arms}
    costs = {arm.name: _cost(arm, cost) for arm in arms}
    problem = _problem(arms, cost)
    out = []
    for arm in arms:
        place = FrontPlace.UNKNOWN if problem else _place(comparison, arm.name, values, costs, cost)
        out.append(
            ArmCost(
                arm=arm.name, key=cost.key, cost=costs[arm.name], value=values[arm.name], place=place, problem=problem
            )
        )
    return out


def _mean(comparison: "Comparison", arm: Arm) -> float:
    """The baseline's mean plus the estimated difference, so that arms with other seeds compare; NaN if unknown or if a
    run diverged."""
    key, baseline = comparison.metric.key, comparison.baseline
    assert baseline is not None  # there are arms
    if arm.diverged or any(row.diverged for row in arm.rows):
        return math.nan
    estimate = next((one.effect.estimate for one in comparison.arms if one.arm is arm), 0.0)
    known = [row.metrics[key] for row in baseline.rows if row.measures(comparison.metric)]
    return math.fsum(known) / len(known) + estimate if known else math.nan


def _cost(arm: Arm, cost: Metric) -> float:
    known = [row.metrics[cost.key] for row in arm.rows if row.measures(cost)]
    return math.fsum(known) / len(known) if known else math.nan


def _problem(arms: tuple[Arm, ...], cost: Metric) -> str:
    """Why the costs of arms do not compare; empty if they do."""
    if cost.key in SPEEDS:
        return seconds_problem(arms)
    if cost.key in MACHINES and len({row.device for arm in arms for row in arm.rows}) > 1:
        return "the devices differ"
    return ""


def _place(
    comparison: "Comparison", name: str, values: Mapping[str, float], costs: Mapping[str, float], cost: Metric
) -> FrontPlace:
    if math.isnan(values[name]) or math.isnan(costs[name]):
        return FrontPlace.UNKNOWN
    metric = comparison.metric
    better = [
        other
        for other in values
        if _gain(metric, values[name], values[other]) >= 0 and _gain(cost, costs[name], costs[other]) >= 0
        if (values[name], costs[name]) != (values[other], costs[other])
    ]
    if not better:
        return FrontPlace.ON
    if len(values) > MOST_ARMS:
        return FrontPlace.OFF
    surely = comparison.pairs is not None and any(_is_worse(comparison.pairs, name, other) for other in better)
    return FrontPlace.OFF if surely else FrontPlace.NEAR


def _gain(metric: Metric, value: float, other: float) -> float:
    """How much better another value is; NaN if it is unknown."""
    return other - value if metric.higher_is_better else value - other


def _is_worse(pairs: Effects, name: str, other: str) -> bool:
    """Whether the interval of the pair says that one arm is worse than another one."""
    for effect in pairs.effects:
        if (effect.arm, effect.baseline) == (name, other):
            return effect.verdict is Verdict.WORSE
        if (effect.arm, effect.baseline) == (other, name):
            return effect.verdict is Verdict.BETTER
    return False
