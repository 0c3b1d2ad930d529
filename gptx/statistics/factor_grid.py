"""The cells of a grid of factors, and the contrasts between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from gptx.errors import GptxError
from gptx.statistics.block_model import BlockModel, Floats
from gptx.statistics.run_table import RunTable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class FactorChange:
    """From one level of a factor to another."""

    factor: str
    level: str
    reference: str


Contrast = tuple[tuple[FactorChange, ...], tuple[tuple[str, str], ...]]  # changes, and levels at which they happen
SignedCells = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class FactorGrid:
    """The cells of a grid of factors, each with its runs."""

    table: RunTable
    factors: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    """The levels of each factor, its reference first."""
    cells: Mapping[tuple[str, ...], int]
    """The arm of each combination of levels that has a finite run."""
    diverged: Mapping[tuple[str, ...], int]
    """The diverged runs of each combination of levels that has a run."""

    @staticmethod
    def of(frame: "pd.DataFrame", factors: tuple[str, ...], references: Mapping[str, str]) -> "FactorGrid":
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
        return FactorGrid(table, factors, levels, cells, {c: table.diverged(repr(c)) for c in arms})

    @cached_property
    def model(self) -> BlockModel:
        """The model value ~ cell + seed of the finite runs."""
        return BlockModel.of_present(self.table.finite)

    def changes(self, factor: str) -> list[FactorChange]:
        base, *others = self.levels[factor]
        return [FactorChange(factor=factor, level=name, reference=base) for name in others]

    def simple(self, factor: str, other: str) -> list[Contrast]:
        """The effects of one factor at each level of another."""
        return [((change,), ((other, name),)) for change, name in product(self.changes(factor), self.levels[other])]

    def signed_cells(self, contrast: Contrast) -> list[SignedCells]:
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

    def joint_cells(self, factors: tuple[str, str], levels: tuple[str, str]) -> list[SignedCells]:
        """For each combination of the other factors, the cell with these levels of two factors minus the cell with
        their references."""
        fixed = dict(zip(factors, levels, strict=True))
        base = {factor: self.levels[factor][0] for factor in factors}
        others = [(fixed[f],) if f in fixed else self.levels[f] for f in self.factors]
        found = []
        for cell in product(*others):
            reference = tuple(base.get(f, name) for f, name in zip(self.factors, cell, strict=True))
            found.append({cell: 1.0, reference: -1.0})
        return found

    def weights(self, combinations: Sequence[SignedCells]) -> tuple[Floats, tuple[int, int]]:
        """The weights of the arms, all zero if no combination has all its cells; and how many combinations have."""
        used = [cells for cells in combinations if cells.keys() <= self.cells.keys()]
        weights = np.zeros(len(self.table.arms))
        for cell, sign in (item for cells in used for item in cells.items()):
            weights[self.cells[cell]] += sign
        return weights / max(len(used), 1), (len(used), len(combinations))

    def diverged_runs(self, combinations: Sequence[SignedCells]) -> int:
        """The diverged runs in all cells of a contrast, whether or not its average uses them."""
        return sum(self.diverged.get(cell, 0) for cells in combinations for cell in cells)
