"""A fitted power law, drawn: loss over text for each size, and the best split of a budget."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gptx.compare.text import human

if TYPE_CHECKING:
    from gptx.compare.scaling import Fit


def draw(found: "Fit", file: Path, kind: str) -> None:
    """``kind``: svg or png."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lengths(left, found)
    _budgets(right, found)
    for axes in (left, right):
        axes.set(ylabel="validation loss, nats a token")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(file, format=kind, dpi=150)


def _lengths(axes: Axes, found: "Fit") -> None:
    across = np.geomspace(found.tokens.min() / 1.5, found.tokens.max() * 1.5)
    lengths = sorted(set(found.tokens))
    axes.set(xscale="log", xlabel="D, tokens trained on", title=f"a = {found.law.a:.2f}, b = {found.law.b:.2f}")
    axes.set_xticks(lengths, [human(length) for length in lengths])
    axes.minorticks_off()
    for size in sorted(set(found.sizes)):
        own = found.sizes == size
        [points] = axes.plot(found.tokens[own], found.losses[own], "o", ms=4, label=f"N = {human(size)}")
        axes.plot(across, found.law.loss(size, across), color=points.get_color(), lw=1)


def _budgets(axes: Axes, found: "Fit") -> None:
    """All runs over what they cost, and the lowest loss that the law sees for it; dashed beyond the measured range."""
    across = np.geomspace(found.flops.min(), 100 * found.flops.max(), 200)
    splits = [found.law.best(flops) for flops in across]
    losses = np.array([float(found.law.loss(*split)) for split in splits])
    beyond = np.array([found.beyond(*split) for split in splits])
    axes.plot(found.flops, found.losses, "o", ms=4, color="grey", label="runs")
    axes.plot(across, np.where(beyond, np.nan, losses), color="C3", label="best split")
    axes.plot(across, np.where(beyond, losses, np.nan), "--", color="C3", lw=1, label="beyond what was measured")
    axes.set(xscale="log", xlabel="C = 6 N D, FLOPs", title=f"best N ~ C^{found.law.growth:.2f}")
