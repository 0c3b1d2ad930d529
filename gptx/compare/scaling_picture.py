"""Plot a fitted scaling law: loss against tokens for each model size, and against compute with the best split."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gptx.compare.powerlaw import FittedLaw
from gptx.runs.units import human


def draw(fitted: FittedLaw, file: Path, kind: str) -> None:
    """Write the picture to a file. ``kind`` is "svg" or "png"."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lengths(left, fitted)
    _budgets(right, fitted)
    for axes in (left, right):
        axes.set(ylabel="validation loss, nats per token")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(file, format=kind, dpi=150)


def _lengths(axes: Axes, fitted: FittedLaw) -> None:
    grid = np.geomspace(fitted.tokens.min() / 1.5, fitted.tokens.max() * 1.5)
    lengths = sorted(set(fitted.tokens))
    axes.set(xscale="log", xlabel="D, training tokens", title=f"a = {fitted.law.a:.2f}, b = {fitted.law.b:.2f}")
    axes.set_xticks(lengths, [human(length) for length in lengths])
    axes.minorticks_off()
    for size in sorted(set(fitted.sizes)):
        own = fitted.sizes == size
        [points] = axes.plot(fitted.tokens[own], fitted.losses[own], "o", ms=4, label=f"N = {human(size)}")
        axes.plot(grid, fitted.law.loss(size, grid), color=points.get_color(), lw=1)


def _budgets(axes: Axes, fitted: FittedLaw) -> None:
    """Plot the loss of each run, and the lowest loss that the law predicts, against compute in FLOPs."""
    grid = np.geomspace(fitted.flops.min(), 100 * fitted.flops.max(), 200)
    splits = [fitted.law.best(flops) for flops in grid]
    losses = np.array([float(fitted.law.loss(*split)) for split in splits])
    outside = np.array([fitted.extrapolates(*split) for split in splits])
    axes.plot(fitted.flops, fitted.losses, "o", ms=4, color="grey", label="runs")
    axes.plot(grid, np.where(outside, np.nan, losses), color="C3", label="best split")
    axes.plot(grid, np.where(outside, losses, np.nan), "--", color="C3", lw=1, label="outside the measured range")
    axes.set(xscale="log", xlabel="C = 6 N D, FLOPs", title=f"best N ~ C^{fitted.law.growth:.2f}")
