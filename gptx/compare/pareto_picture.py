"""The compared metric against each cost as a picture, with the Pareto fronts."""

import math
from typing import TYPE_CHECKING, Literal

from gptx.compare.comparison import Comparison
from gptx.compare.findings import ArmCost, FrontPlace
from gptx.compare.picture import COLOURS, GREY, content, panels, plain
from gptx.errors import GptxError
from gptx.runs.metrics import BY_KEY, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 24  # arms that the legend names


def pareto(comparison: Comparison, kind: str) -> bytes:
    """The picture as the content of a file of this kind: one panel for each cost that is known and comparable.

    Raises:
        GptxError: there is nothing to compare, or no cost.
    """
    by_key: dict[str, list[ArmCost]] = {}
    for one in comparison.costs:
        by_key.setdefault(one.key, []).append(one)
    shown = [found for found in by_key.values() if any(one.place is FrontPlace.ON for one in found)]
    if not shown:
        why = comparison.sentence if comparison.baseline is None else "no cost of the arms is known and comparable"
        raise GptxError(f"no picture was drawn: {why}")
    names = [arm.name for arm in comparison.compared]
    named = [name for name in names if any(one.arm == name and _is_shown(one) for found in shown for one in found)]
    named = named[:_NAMED]
    columns = 1 if max(map(len, named)) > 40 else 2
    figure, axes = panels(len(shown), 2.4, 0.5 + 0.15 * -(-len(named) // columns))
    for part, found in zip(axes, shown, strict=True):
        _draw(part, comparison, found, names)
    for name in named:
        axes[0].plot([], [], " ", label=f"{names.index(name) + 1}  {name}")
    figure.legend(loc="outside lower center", ncols=columns, fontsize=7, frameon=False, handlelength=0)
    figure.suptitle(
        f"{comparison.metric.title} against costs. Line and filled: Pareto front; hollow: no arm that costs no more\n"
        "is surely better; grey: dominated. Bars: simultaneous 95 % intervals of the difference from arm 1",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    return content(figure, kind)


def _is_shown(one: ArmCost) -> bool:
    return not math.isnan(one.cost) and not math.isnan(one.value)


def _draw(axes: "Axes", comparison: Comparison, found: list[ArmCost], names: list[str]) -> None:
    metric, cost = comparison.metric, BY_KEY[found[0].key]
    known = [one for one in found if _is_shown(one)]
    halves = {
        one.arm.name: (one.effect.interval.high - one.effect.interval.low) / 2
        for one in comparison.arms
        if one.effect.interval
    }
    divisor, prefix = _prefix(max(one.cost for one in known))
    for one in known:
        colour = GREY if one.place is FrontPlace.OFF else COLOURS[2]
        x, y = one.cost / divisor, one.value * metric.scale
        half = halves.get(one.arm, 0.0) * metric.scale
        filled = "white" if one.place is FrontPlace.NEAR else colour
        axes.errorbar(
            x,
            y,
            yerr=half or None,
            fmt="o",
            color=colour,
            markerfacecolor=filled,
            markersize=4,
            capsize=2,
            linewidth=0.8,
        )
    front = sorted((one.cost / divisor, one.value * metric.scale) for one in known if one.place is FrontPlace.ON)
    axes.step(*zip(*front, strict=True), where=_where(cost), color=COLOURS[2], linewidth=0.8, zorder=1)
    _numbers(axes, known, names, (divisor, 1 / metric.scale))
    axes.margins(0.12)
    plain(axes)
    axes.set_xlabel(f"{_label(cost, prefix)}, {'higher' if cost.higher_is_better else 'lower'} is better", fontsize=8)
    axes.set_ylabel(f"{metric.title}{f' [{metric.unit}]' if metric.unit else ''}", fontsize=8)


def _numbers(axes: "Axes", known: list[ArmCost], names: list[str], divisors: tuple[float, float]) -> None:
    """The numbers of the arms beside their points; points that nearly coincide share one label."""
    width, height = (
        max(values) - min(values) or 1.0 for values in zip(*((o.cost, o.value) for o in known), strict=True)
    )
    groups: list[list[ArmCost]] = []
    for one in known:
        near = (
            g
            for g in groups
            if abs(one.cost - g[0].cost) < 0.05 * width and abs(one.value - g[0].value) < 0.06 * height
        )
        if (group := next(near, None)) is None:
            groups.append([one])
        else:
            group.append(one)
    for group in groups:
        at = (group[0].cost / divisors[0], group[0].value / divisors[1])
        text = ", ".join(str(names.index(one.arm) + 1) for one in group)
        colour = GREY if all(one.place is FrontPlace.OFF for one in group) else COLOURS[2]
        axes.annotate(text, at, xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour)


def _where(cost: Metric) -> Literal["pre", "post"]:
    """The side on which a step of the front lies: where the cost is the same or worse."""
    return "pre" if cost.higher_is_better else "post"


def _prefix(largest: float) -> tuple[float, str]:
    """A power of 1000 and its prefix, with which the largest value is at least 1."""
    powers = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    return next(((power, prefix) for power, prefix in powers if largest >= power), (1.0, ""))


def _label(cost: Metric, prefix: str) -> str:
    units = {"B": f"{prefix}B", "": prefix}
    shown = units[cost.symbol]
    return f"{cost.title}{f' [{shown}]' if shown else ''}"
