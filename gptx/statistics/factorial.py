"""Main effects, simple effects and interactions of a grid of factors, from the model value ~ cell + seed.

The cells are the arms of `gptx.statistics.block_model`, so every contrast between cells has an interval from
`gptx.statistics.contrast_intervals`. A main effect is the plain average over the combinations of the other factors, not
weighted by runs. Where cells are missing, it averages over the combinations that have all the cells it needs, and
says so. The intervals hold together within a family: the main effects of one factor, its simple effects within
another factor, the interactions of one pair of factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING

import numpy as np

from gptx.errors import GptxError
from gptx.statistics.block_model import BlockModel, Floats
from gptx.statistics.contrast_intervals import ContrastFamily
from gptx.statistics.run_table import RunTable
from gptx.statistics.verdict import Interval, Verdict, judge

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class FactorChange:
    """From one level of a factor to another."""

    factor: str
    level: str
    reference: str


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
class Factorial:
    """The effects of a grid. Each tuple lists its families one after the other."""

    metric: str
    margin: float | None
    main: tuple[FactorialEffect, ...]
    simple: tuple[FactorialEffect, ...]
    interactions: tuple[FactorialEffect, ...]

    def sentences(self) -> tuple[str, ...]:
        """One sentence for each change of a factor and each other factor: the simple effects and their interactions."""
        keys = dict.fromkeys((effect.changes[0], effect.at[0][0]) for effect in self.simple)
        return tuple(self._sentence(change, other) for change, other in keys)

    def _sentence(self, change: FactorChange, other: str) -> str:
        simple = [e for e in self.simple if e.changes[0] == change and e.at[0][0] == other]
        effects = " and ".join(f"{_phrase(e, self.metric, self.margin)} under {e.at[0][1]}" for e in simple)
        interactions = {
            second.level: _interaction_phrase(e, self.margin)
            for e in self.interactions
            for second in e.changes
            if change in e.changes and second.factor == other
        }
        several = len(interactions) > 1
        parts = [f"the interaction {f'with {name} ' if several else ''}{text}" for name, text in interactions.items()]
        return f"{change.level} (instead of {change.reference}) " + "; ".join([effects, *parts])


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
    grid = _Grid.of(frame, tuple(factors), dict(references or {}))
    judged = _JudgedGrid(grid, margin, higher_is_better, level)
    pairs = list(permutations(factors, 2))
    return Factorial(
        metric=metric,
        margin=margin,
        main=tuple(e for f in factors for e in judged.family([((change,), ()) for change in grid.changes(f)])),
        simple=tuple(e for f, g in pairs for e in judged.family(grid.simple(f, g))),
        interactions=tuple(
            e
            for i, f in enumerate(factors)
            for g in factors[i + 1 :]
            for e in judged.family([(both, ()) for both in product(grid.changes(f), grid.changes(g))])
        ),
    )


Contrast = tuple[tuple[FactorChange, ...], tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class _Grid:
    table: RunTable
    factors: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    """The levels of each factor, its reference first."""
    cells: Mapping[tuple[str, ...], int]
    """The arm of each combination of levels that has a finite run."""
    diverged: Mapping[tuple[str, ...], int]
    """The diverged runs of each combination of levels that has a run."""

    @staticmethod
    def of(frame: "pd.DataFrame", factors: tuple[str, ...], references: Mapping[str, str]) -> "_Grid":
        names = frame[list(factors)].astype(str)
        combinations = list(names.itertuples(index=False, name=None))
        table = RunTable.of(frame[["seed", "value"]].assign(arm=[repr(c) for c in combinations]))
        levels = {}
        for factor in factors:
            found = sorted(names[factor].unique())
            base = str(references.get(factor, found[0]))
            if base not in found:
                raise GptxError(f"{factor} has no level {base!r}; it has {', '.join(found)}")
            levels[factor] = (base, *(name for name in found if name != base))
        arms = {c: table.arms.index(repr(c)) for c in dict.fromkeys(combinations)}
        cells = {c: i for c, i in arms.items() if table.finite[i].any()}
        return _Grid(table, factors, levels, cells, {c: table.diverged(repr(c)) for c in arms})

    def changes(self, factor: str) -> list[FactorChange]:
        base, *others = self.levels[factor]
        return [FactorChange(factor=factor, level=name, reference=base) for name in others]

    def simple(self, factor: str, other: str) -> list[Contrast]:
        """The effects of one factor at each level of another."""
        return [((change,), ((other, name),)) for change, name in product(self.changes(factor), self.levels[other])]

    def signed_cells(self, contrast: Contrast) -> list[dict[tuple[str, ...], float]]:
        """For each combination of the other factors, the cells of a contrast with their signs."""
        changes, at = contrast
        signs = {c.factor: {c.level: 1.0, c.reference: -1.0} for c in changes} | {f: {name: 1.0} for f, name in at}
        free = [f for f in self.factors if f not in signs]
        found = []
        for combination in product(*(self.levels[f] for f in free)):
            choices = signs | {f: {name: 1.0} for f, name in zip(free, combination, strict=True)}
            cells = product(*(choices[f].items() for f in self.factors))
            found.append(
                {tuple(name for name, _ in cell): float(np.prod([sign for _, sign in cell])) for cell in cells}
            )
        return found

    def weights(self, contrast: Contrast) -> tuple[Floats, tuple[int, int]]:
        """The weights of the arms, all zero if no combination has all its cells; and how many combinations have."""
        combinations = self.signed_cells(contrast)
        used = [cells for cells in combinations if cells.keys() <= self.cells.keys()]
        weights = np.zeros(len(self.table.arms))
        for cell, sign in (item for cells in used for item in cells.items()):
            weights[self.cells[cell]] += sign
        return weights / max(len(used), 1), (len(used), len(combinations))

    def diverged_runs(self, contrast: Contrast) -> int:
        """The diverged runs in all cells of a contrast, whether or not its average uses them."""
        return sum(self.diverged.get(cell, 0) for cells in self.signed_cells(contrast) for cell in cells)


@dataclass(frozen=True)
class _JudgedGrid:
    grid: _Grid
    margin: float | None
    higher_is_better: bool
    level: float

    def family(self, contrasts: Sequence[Contrast]) -> list[FactorialEffect]:
        """Contrasts whose intervals hold together."""
        weighted = [self.grid.weights(contrast) for contrast in contrasts]
        table = self.grid.table
        rows = [i for i, (row, _) in enumerate(weighted) if row.any()]
        estimates, half = np.full(len(contrasts), np.nan), np.full(len(contrasts), np.nan)
        if rows:
            model, weights = BlockModel.of_present(table.finite), np.array([weighted[i][0] for i in rows])
            family = ContrastFamily(model, weights, self.level)
            result = family.intervals(table.values[table.finite][:, None])
            estimates[rows], half[rows] = result.estimates[:, 0], result.half_widths[:, 0]
        return [self._effect(c, weighted[i][1], float(estimates[i]), float(half[i])) for i, c in enumerate(contrasts)]

    def _effect(self, contrast: Contrast, averaged: tuple[int, int], estimate: float, half: float) -> FactorialEffect:
        interval = None if np.isnan(half) else Interval(estimate=estimate, low=estimate - half, high=estimate + half)
        diverged, (changes, at) = self.grid.diverged_runs(contrast), contrast
        verdict = Verdict.UNDECIDED
        if interval is not None and not diverged:
            verdict = judge(interval, self.margin or 0.0, higher_is_better=self.higher_is_better)
        return FactorialEffect(
            changes=changes,
            at=at,
            estimate=estimate,
            interval=interval,
            verdict=verdict,
            averaged=averaged,
            diverged=diverged,
        )


def _phrase(effect: FactorialEffect, metric: str, margin: float | None) -> str:
    if effect.interval is None:
        return f"has an unknown effect on the {metric}{_why(effect)}"
    if effect.verdict is Verdict.EQUIVALENT:
        return f"changes the {metric} by less than {margin:g}"
    if effect.verdict is Verdict.UNDECIDED:
        size = _with_half_width(effect.estimate, effect.half_width, "+")
        return f"changes the {metric} by {size} (undecided{_why(effect)})"
    direction = "lowers" if effect.estimate < 0 else "raises"
    return f"{direction} the {metric} by {_with_half_width(abs(effect.estimate), effect.half_width)}"


def _interaction_phrase(effect: FactorialEffect, margin: float | None) -> str:
    if effect.interval is None:
        return f"is unknown{_why(effect)}"
    if effect.verdict is Verdict.EQUIVALENT:
        return f"is within ± {margin:g}"
    size = f"is {_with_half_width(effect.estimate, effect.half_width, '+')}"
    return f"{size} (undecided{_why(effect)})" if effect.verdict is Verdict.UNDECIDED else size


def _why(effect: FactorialEffect) -> str:
    return f": {effect.diverged} {'run' if effect.diverged == 1 else 'runs'} diverged" if effect.diverged else ""


def _with_half_width(estimate: float, half_width: float, sign: str = "") -> str:
    """Both with the decimals of the first digit of the half width."""
    decimals = max(0, -int(np.floor(np.log10(half_width)))) if half_width > 0 else 3
    return f"{estimate:{sign}.{decimals}f} ± {half_width:.{decimals}f}"
