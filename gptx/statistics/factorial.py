"""Main effects, simple effects and interactions of a grid of factors, from the model value ~ cell + seed.

The cells are the arms of `gptx.statistics.block_model`, so every contrast between cells has an interval from
`gptx.statistics.contrast_intervals`. A main effect is the plain average over the combinations of the other factors, not
weighted by runs. Where cells are missing, it averages over the combinations that have all the cells it needs;
``averaged`` counts them. The intervals hold together within a family: the main effects of one factor, its simple
effects within another factor, the interactions of one pair of factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product
from typing import TYPE_CHECKING

import numpy as np

from gptx.errors import GptxError
from gptx.statistics.contrast_intervals import ContrastFamily
from gptx.statistics.factor_grid import Contrast, FactorChange, FactorGrid, SignedCells
from gptx.statistics.verdict import Interval, Verdict, judge

if TYPE_CHECKING:
    import pandas as pd

Estimated = tuple[float, Interval | None, tuple[int, int]]  # estimate, interval, combinations averaged and of how many


@dataclass(frozen=True, kw_only=True)
class FactorialEffect:
    """A contrast: one change is an effect, two are an interaction: how much one changes the effect of the other."""

    changes: tuple[FactorChange, ...]
    at: tuple[tuple[str, str], ...]
    """Factor and level at which a simple effect is taken; empty for main effects and interactions."""
    estimate: float
    """NaN if the runs do not determine it."""
    interval: Interval | None
    verdict: Verdict
    averaged: tuple[int, int]
    """How many combinations of the other factors the average has, and of how many."""
    diverged: int
    """Diverged runs in all cells of the contrast's levels, also in those that the average leaves out because every run
    diverged. With one, the verdict is undecided."""

    @property
    def half_width(self) -> float:
        return np.nan if self.interval is None else (self.interval.high - self.interval.low) / 2


@dataclass(frozen=True, kw_only=True)
class GridPoint:
    """Two levels of two factors, averaged over the other factors, as a difference from the references of both."""

    levels: tuple[str, str]
    estimate: float
    """NaN if the runs do not determine it; 0 at the references."""
    interval: Interval | None
    """Of the difference, together with all points of these two factors; None at the references."""
    averaged: tuple[int, int]
    """How many combinations of the other factors the average has, and of how many."""


@dataclass(frozen=True, kw_only=True)
class GridPanel:
    """The points of two factors, for a picture of their interaction."""

    factors: tuple[str, str]
    points: tuple[GridPoint, ...]


@dataclass(frozen=True, kw_only=True)
class Factorial:
    """The effects of a grid. Each tuple lists its families one after the other."""

    metric: str
    margin: float | None
    main: tuple[FactorialEffect, ...]
    simple: tuple[FactorialEffect, ...]
    interactions: tuple[FactorialEffect, ...]
    panels: tuple[GridPanel, ...]
    """The points of each pair of factors."""


def factorial(
    frame: "pd.DataFrame",
    factors: Sequence[str],
    margin: float | None,
    *,
    metric: str = "loss",
    references: Mapping[str, str] | None = None,
    higher_is_better: bool = False,
    level: float = 0.95,
) -> Factorial:
    """The effects of ``factors``, columns of ``frame`` beside seed and value; ``references``: each factor's base level,
    by default the first in alphabetical order. Raises `GptxError` for a factor or a level that does not exist."""
    for name in factors:
        if name not in frame.columns:
            raise GptxError(f"the frame has no column {name!r}; expected the factors, seed and value")
    grid = FactorGrid.of(frame, tuple(factors), dict(references or {}))
    judged = _JudgedGrid(grid, margin, higher_is_better, level)
    both = list(combinations(factors, 2))
    return Factorial(
        metric=metric,
        margin=margin,
        main=tuple(e for f in factors for e in judged.family([((change,), ()) for change in grid.changes(f)])),
        simple=tuple(e for f, g in permutations(factors, 2) for e in judged.family(grid.simple(f, g))),
        interactions=tuple(
            e for f, g in both for e in judged.family([(c, ()) for c in product(grid.changes(f), grid.changes(g))])
        ),
        panels=tuple(judged.panel(pair) for pair in both),
    )


@dataclass(frozen=True)
class _JudgedGrid:
    grid: FactorGrid
    margin: float | None
    higher_is_better: bool
    level: float

    def family(self, contrasts: Sequence[Contrast]) -> list[FactorialEffect]:
        """Contrasts whose intervals hold together."""
        cells = [self.grid.signed_cells(contrast) for contrast in contrasts]
        found = zip(contrasts, cells, self._estimates(cells), strict=True)
        return [self._effect(contrast, self.grid.diverged_runs(mine), *rest) for contrast, mine, rest in found]

    def panel(self, factors: tuple[str, str]) -> GridPanel:
        """All levels of two factors."""
        levels = list(product(self.grid.levels[factors[0]], self.grid.levels[factors[1]]))
        found = self._estimates([self.grid.joint_cells(factors, both) for both in levels[1:]])
        first = GridPoint(levels=levels[0], estimate=0.0, interval=None, averaged=(1, 1))
        rest = [
            GridPoint(levels=both, estimate=estimate, interval=interval, averaged=averaged)
            for both, (estimate, interval, averaged) in zip(levels[1:], found, strict=True)
        ]
        return GridPanel(factors=factors, points=(first, *rest))

    def _estimates(self, contrasts: Sequence[list[SignedCells]]) -> list[Estimated]:
        """The estimates of a family of contrasts."""
        weighted = [self.grid.weights(cells) for cells in contrasts]
        rows = [i for i, (row, _) in enumerate(weighted) if row.any()]
        estimates, half = np.full(len(contrasts), np.nan), np.full(len(contrasts), np.nan)
        if rows:
            family = ContrastFamily(self.grid.model, np.array([weighted[i][0] for i in rows]), self.level)
            result = family.intervals(self.grid.table.values[self.grid.table.finite][:, None])
            estimates[rows], half[rows] = result.estimates[:, 0], result.half_widths[:, 0]
        intervals = (
            None if np.isnan(h) else Interval(estimate=float(x), low=float(x - h), high=float(x + h))
            for x, h in zip(estimates, half, strict=True)
        )
        averaged = (counts for _, counts in weighted)
        return list(zip(map(float, estimates), intervals, averaged, strict=True))

    def _effect(
        self, contrast: Contrast, diverged: int, estimate: float, interval: Interval | None, averaged: tuple[int, int]
    ) -> FactorialEffect:
        verdict = Verdict.UNDECIDED
        if interval is not None and not diverged:
            verdict = judge(interval, self.margin or 0.0, higher_is_better=self.higher_is_better)
        changes, at = contrast
        return FactorialEffect(
            changes=changes,
            at=at,
            estimate=estimate,
            interval=interval,
            verdict=verdict,
            averaged=averaged,
            diverged=diverged,
        )
