"""The tables that are shown on request, and the line that names the options for the others."""

import math
from collections.abc import Collection
from enum import StrEnum

from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import number
from gptx.compare.effect_tables import EffectCells
from gptx.compare.findings import ArmCost, ArmReach, CostUnit, FrontPlace
from gptx.compare.formatting import figure
from gptx.compare.grid_sections import grid_sections
from gptx.compare.section import Section, difference_head, interval_text
from gptx.runs.metrics import BY_KEY
from gptx.statistics.effects import Effect
from gptx.statistics.reach import Reach


class SectionName(StrEnum):
    """A table that is shown on request; its option has the same name."""

    FACTORS = "factors"
    PAIRS = "pairs"
    REACH = "reach"
    COSTS = "costs"


_PLACES = {FrontPlace.ON: " *", FrontPlace.NEAR: " (*)"}


def sections(comparison: Comparison, names: Collection[SectionName] = ()) -> list[Section]:
    """The effects of factors in short, and the sections with these names in full."""
    if comparison.baseline is None:
        return []
    out = grid_sections(comparison, full=SectionName.FACTORS in names)
    out += [_pairs(comparison)] if SectionName.PAIRS in names else []
    out += [_reach(comparison)] if SectionName.REACH in names else []
    return out + ([_costs(comparison)] if SectionName.COSTS in names else [])


def more(comparison: Comparison, names: Collection[SectionName] = ()) -> str:
    """The line that names the options for what is not shown; empty if nothing is compared."""
    if comparison.baseline is None:
        return ""
    about = {
        SectionName.FACTORS: "effects under each level" if comparison.grid else "",
        SectionName.PAIRS: "all pairs of arms" if len(comparison.arms) > 1 else "",
        SectionName.REACH: "training until the baseline's loss",
        SectionName.COSTS: "costs and Pareto fronts",
    }
    parts = [f"{text} (--{name})" for name, text in about.items() if text and name not in names]
    return f"more: {', '.join(parts)}" if parts else ""


def _pairs(comparison: Comparison) -> Section:
    metric = comparison.metric
    found = comparison.pairs.effects if comparison.pairs else ()
    heads = ("arms", difference_head(metric), "95 % interval", "verdict", "seeds")
    rows = [_pair_row(comparison, one) for one in found]
    text = (
        f"the intervals hold together for all {len(rows)} pairs: {comparison.pairs.method}" if comparison.pairs else ""
    )
    return Section(title="All pairs of arms", cells=EffectCells(heads, tuple(rows)), lines=(text,))


def _pair_row(comparison: Comparison, one: Effect) -> tuple[str, ...]:
    metric = comparison.metric
    figures = (number(metric, one.estimate, signed=True), interval_text(metric, one.interval))
    return f"{one.arm} minus {one.baseline}", *figures, str(one.verdict), str(one.n)


def _reach(comparison: Comparison) -> Section:
    """One row for each arm, one column for each unit."""
    by_arm: dict[str, dict[CostUnit, ArmReach]] = {}
    for one in comparison.reaches:
        by_arm.setdefault(one.arm, {})[one.unit] = one
    problems = {one.problem: one.unit for one in comparison.reaches if one.problem}
    shown = [u for u in CostUnit if any(u in found and found[u].reach for found in by_arm.values())]
    rows = tuple((arm, *(_ratio(found.get(unit)) for unit in shown)) for arm, found in by_arm.items())
    name = comparison.baseline.name if comparison.baseline else ""
    lines = [
        f"ratio to what {name} needs for its final validation loss with the same seed, with its 95 % interval",
        *(f"{unit}: {problem}" for problem, unit in problems.items()),
    ]
    title = "Training until the baseline's final loss"
    return Section(title=title, cells=EffectCells(("arm", *shown), rows if shown else ()), lines=tuple(lines))


def _ratio(one: ArmReach | None) -> str:
    if one is None or one.reach is None:
        return "-"
    return ratio_text(one.reach)


def ratio_text(reach: Reach) -> str:
    """Such as ``0.71 (0.67 to 0.75)`` or ``2 of 5 never``."""
    if reach.never:
        return f"{reach.never} of {reach.runs} never"
    if reach.ratio is None:
        return "-"
    bound = "≤ " if reach.at_first else ""
    limits = f" ({reach.low:.2f} to {reach.high:.2f})" if reach.low is not None else ""
    return f"{bound}{reach.ratio:.2f}{limits}"


def _costs(comparison: Comparison) -> Section:
    """One row for each arm, one column for each cost."""
    by_arm: dict[str, dict[str, ArmCost]] = {}
    for one in comparison.costs:
        by_arm.setdefault(one.arm, {})[one.key] = one
    keys = list(dict.fromkeys(one.key for one in comparison.costs))
    metric = comparison.metric
    rows = []
    for arm, found in by_arm.items():
        value = number(metric, next(iter(found.values())).value)
        rows.append((arm, value, *(_cost(found[key]) for key in keys)))
    heads = ("arm", f"{metric.title}", *(BY_KEY[key].title for key in keys))
    problems = {f"{BY_KEY[one.key].title}: {one.problem}": None for one in comparison.costs if one.problem}
    lines = (
        f"*: on the Pareto front of {metric.title} and this cost; (*): another arm has a better mean at "
        "the same or a lower cost, but the interval does not show it",
        *problems,
    )
    return Section(title="Costs", cells=EffectCells(heads, tuple(rows)), lines=lines)


def _cost(one: ArmCost) -> str:
    text = "-" if math.isnan(one.cost) else figure(BY_KEY[one.key], one.cost)
    return f"{text}{_PLACES.get(one.place, '')}"
