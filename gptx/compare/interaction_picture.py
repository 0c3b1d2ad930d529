"""How two factors act together, as a picture: without an interaction, the lines of a panel are parallel."""

from typing import TYPE_CHECKING

from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import unit
from gptx.compare.picture import COLOURS, LINES, MARKERS, content, panels, plain
from gptx.errors import GptxError
from gptx.runs.metrics import Metric
from gptx.statistics.factorial import GridPanel, GridPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def interactions(comparison: Comparison, kind: str) -> bytes:
    """The picture as the content of a file of this kind: one panel for each pair of factors.

    Raises:
        GptxError: the arms form no grid.
    """
    if comparison.grid is None:
        raise GptxError("no picture was drawn: the arms form no grid of two or more factors")
    shown = comparison.grid.effects.panels
    figure, axes = panels(len(shown), 2.6, 0.45)
    for one, panel in zip(axes, shown, strict=True):
        _draw(one, panel, comparison.metric)
    averaged = ", averaged over the other factors" * (len(comparison.grid.factors) > 2)
    better = "higher" if comparison.metric.higher_is_better else "lower"
    figure.suptitle(
        f"Difference from {', '.join(comparison.grid.references)}{averaged}. Parallel lines: no interaction\n"
        f"bars: simultaneous 95 % intervals within a panel; {better} is better",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    return content(figure, kind)


def _draw(axes: "Axes", panel: GridPanel, metric: Metric) -> None:
    """The levels of the first factor along the axis, one line for each level of the second one."""
    first, second = (list(dict.fromkeys(point.levels[i] for point in panel.points)) for i in (0, 1))
    points = {point.levels: point for point in panel.points}
    for i, level in enumerate(second):
        found = [(x, points[name, level]) for x, name in enumerate(first)]
        known = [(x, point) for x, point in found if point.estimate == point.estimate]
        shift = 0.08 * (i - (len(second) - 1) / 2)
        axes.errorbar(
            [x + shift for x, _ in known],
            [point.estimate * metric.scale for _, point in known],
            yerr=[_half(point) * metric.scale for _, point in known],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle=LINES[i % len(LINES)],
            markersize=3.5,
            linewidth=1.1,
            capsize=2.5,
            label=level,
        )
    axes.set_xticks(range(len(first)), [name.replace(" ", "\n") for name in first])
    axes.set_xlim(-0.4, len(first) - 0.6)
    axes.set_xlabel(panel.factors[0], fontsize=8)
    axes.set_ylabel(f"difference in {metric.title}{f' [{metric.unit}]' * bool(unit(metric))}", fontsize=8)
    plain(axes)
    axes.legend(title=panel.factors[1], fontsize=7, title_fontsize=7, frameon=False)


def _half(point: GridPoint) -> float:
    return (point.interval.high - point.interval.low) / 2 if point.interval else 0.0
