"""The validation losses of arms during training as a picture, against steps, tokens, FLOPs or time."""

import math
from typing import TYPE_CHECKING

from gptx.compare.comparison import Comparison
from gptx.compare.findings import ArmCurve, CostUnit
from gptx.compare.formatting import count
from gptx.compare.picture import COLOURS, LINES, MARKERS, content, new_figure, plain
from gptx.compare.training_curves import seconds_problem
from gptx.errors import GptxError
from gptx.runs.metrics import BY_KEY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 8  # curves in one picture


def curves_picture(comparison: Comparison, unit: CostUnit, kind: str) -> bytes:
    """The picture as the content of a file of this kind: the mean of each arm, with a band from its lowest to its
    highest run. Of many arms, it shows the baseline and those with the lowest final losses.

    Raises:
        GptxError: nothing is compared, or the cost of this unit is unknown or not comparable.
    """
    found = [(one, _costs(one, unit)) for one in comparison.curves]
    found = [(one, costs) for one, costs in found if len(costs) > 1 and all(map(math.isfinite, costs))]
    if not found:
        raise GptxError(f"no picture was drawn: {_why(comparison, unit)}")
    first, *others = found if found[0][0].arm == comparison.compared[0].name else [None, *found]
    others = sorted(filter(None, others), key=lambda pair: pair[0].mean[-1])
    shown = [*([first] if first else []), *others][:_SHOWN]
    figure = new_figure(3.4 + 0.16 * -(-len(shown) // 2))
    axes = figure.subplots()
    for i, (curve, costs) in enumerate(shown):
        _draw(axes, curve, costs, i)
    _labels(axes, unit, [curve for curve, _ in shown])
    left = f"; the baseline and the {len(shown) - 1} best of {count(len(others), 'other arm')}"
    axes.set_title(
        f"Mean of the runs, band from the lowest to the highest{left * (len(found) > len(shown))}",
        fontsize=8,
        loc="left",
    )
    columns = 1 if max(len(curve.arm) for curve, _ in shown) > 40 else 2
    figure.legend(loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
    return content(figure, kind)


def _costs(curve: ArmCurve, unit: CostUnit) -> tuple[float, ...]:
    by_unit = {CostUnit.STEPS: curve.steps, CostUnit.TOKENS: curve.tokens, CostUnit.FLOPS: curve.flops}
    return by_unit.get(unit, curve.seconds)


def _why(comparison: Comparison, unit: CostUnit) -> str:
    if comparison.baseline is None:
        return comparison.sentence
    problem = seconds_problem(comparison.compared) if unit is CostUnit.SECONDS else ""
    return problem or f"no arm has two validations at known {unit}"


def _draw(axes: "Axes", curve: ArmCurve, costs: tuple[float, ...], i: int) -> None:
    colour, line = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
    label = f"{curve.arm} ({count(curve.n, 'run')})"
    marker, every = MARKERS[i % len(MARKERS)], max(1, len(costs) // 8)
    axes.plot(
        costs,
        curve.mean,
        color=colour,
        linestyle=line,
        linewidth=1.2,
        label=label,
        marker=marker,
        markersize=3,
        markevery=every,
    )
    if curve.n > 1:
        axes.fill_between(costs, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _labels(axes: "Axes", unit: CostUnit, shown: list[ArmCurve]) -> None:
    """The axes: the cost is logarithmic, and losses above those of the first tenth of the validations are cut off."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(NullLocator())
    heights = [value for curve in shown for value in curve.high[len(curve.high) // 10 :]]
    lowest = min(min(curve.low) for curve in shown)
    axes.set_ylim(lowest - 0.03 * (max(heights) - lowest), max(heights))
    names = {CostUnit.STEPS: "training steps", CostUnit.TOKENS: "training tokens", CostUnit.FLOPS: "training FLOPs"}
    axes.set_xlabel(names.get(unit, "training time [s]"), fontsize=8)
    metric = BY_KEY["val_loss"]
    axes.set_ylabel(f"validation loss [{metric.unit}]", fontsize=8)
    plain(axes)
