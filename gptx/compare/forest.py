"""The differences from the baseline as a picture: each arm with its interval, and the margin as a band."""

import math
import textwrap
from typing import TYPE_CHECKING

from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import margin_number
from gptx.compare.picture import GREY, content, new_figure
from gptx.errors import GptxError
from gptx.statistics.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# of the palette of Okabe and Ito (2008), which colour-blind readers can tell apart; the markers differ too
_COLOURS = {Verdict.BETTER: "#009E73", Verdict.WORSE: "#D55E00", Verdict.EQUIVALENT: "#0072B2"}
_LABEL_WIDTH, _TITLE_WIDTH = 40, 70  # characters of a line
_MARKERS = {Verdict.BETTER: "o", Verdict.WORSE: "s", Verdict.EQUIVALENT: "D", Verdict.UNDECIDED: "o"}


def forest(comparison: Comparison, kind: str) -> bytes:
    """The picture as the content of a file of this kind, with a width of 6.3 inches, that of a page's text.

    Raises:
        GptxError: there is nothing to compare.
    """
    if comparison.baseline is None:
        raise GptxError(f"no picture was drawn. {comparison.sentence}")
    lines = sum(_label(f"{one.arm.name}  (n={one.effect.n})").count("\n") for one in comparison.arms)
    figure = new_figure(1.3 + 0.27 * len(comparison.arms) + 0.14 * lines)
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    if comparison.margin:
        band = comparison.margin * comparison.metric.scale
        axes.axvspan(
            -band, band, color="#56B4E9", alpha=0.25, linewidth=0, label=f"margin ±{margin_number(comparison)}"
        )
    for verdict in Verdict:
        _points(axes, comparison, verdict)
    _labels(axes, comparison)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return content(figure, kind)


def _points(axes: "Axes", comparison: Comparison, verdict: Verdict) -> None:
    """The arms with one verdict: points with their intervals."""
    scale = comparison.metric.scale
    found = [(i, one.effect) for i, one in enumerate(comparison.arms) if one.effect.verdict is verdict]
    found = [(i, effect) for i, effect in found if not math.isnan(effect.estimate)]
    if not found:
        return
    halves = [(effect.interval.high - effect.interval.low) / 2 if effect.interval else 0.0 for _, effect in found]
    colour = _COLOURS.get(verdict, GREY)
    axes.errorbar(
        [effect.estimate * scale for _, effect in found],
        [i for i, _ in found],
        xerr=[half * scale for half in halves],
        fmt=_MARKERS[verdict],
        color=colour,
        markerfacecolor="white" if verdict is Verdict.UNDECIDED else colour,
        markersize=3.5,
        capsize=3,
        linewidth=1.2,
        label=str(verdict),
    )


def _label(text: str) -> str:
    """The name of an arm in at most three lines."""
    return textwrap.fill(text, _LABEL_WIDTH, max_lines=3, placeholder=" …")


def _labels(axes: "Axes", comparison: Comparison) -> None:
    metric, arms = comparison.metric, comparison.arms
    labels = [_label(f"{one.arm.name}  (n={one.effect.n})") for one in arms]
    axes.set_yticks(range(len(arms)), labels, fontsize=8)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    unit = f" [{metric.unit}]" if metric.unit else ""
    better = "higher" if metric.higher_is_better else "lower"
    name = comparison.baseline.name if comparison.baseline else ""
    text = textwrap.fill(f"{metric.title}: difference from {name}{unit}", _TITLE_WIDTH, max_lines=2, placeholder=" …")
    axes.set_xlabel(f"{text}\n{better} is better", fontsize=8)
    axes.set_title("Difference and simultaneous 95 % interval", fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
