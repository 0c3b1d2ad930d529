"""The linear model value ~ arm + seed: contrasts between arms, with each seed as a block.

Everything that depends on the design alone (which runs exist) is computed once; values come as a matrix with one column
per data set, so that simulations run the same code as a comparison of real runs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class BlockModel:
    """The model of runs with the arms ``arm`` and the seeds ``seed``, both of shape (runs,) and counted from 0.

    Values have the shape (runs, data sets). An arm or a seed without a run is allowed.
    """

    arm: Ints
    seed: Ints
    arms: int
    seeds: int

    @staticmethod
    def of_present(present: Bools) -> "BlockModel":
        """The model of one run in each true cell of ``present``, of shape (arms, seeds), in row-major order."""
        arm, seed = np.nonzero(present)
        return BlockModel(arm, seed, *present.shape)

    @cached_property
    def columns(self) -> Floats:
        """The design matrix, of shape (runs, arms + seeds): an indicator per arm and per seed."""
        return np.hstack([np.eye(self.arms)[self.arm], np.eye(self.seeds)[self.seed]])

    @cached_property
    def inverse(self) -> Floats:
        """The pseudoinverse of the design matrix, of shape (arms + seeds, runs)."""
        values, vectors = self._directions
        return np.asarray((vectors / values) @ (vectors.T @ self.columns.T))

    @cached_property
    def df(self) -> int:
        """Residual degrees of freedom; (arms - 1)(seeds - 1) if no run is missing."""
        return len(self.columns) - len(self._directions[0])

    @cached_property
    def _directions(self) -> tuple[Floats, Floats]:
        """The nonzero eigenvalues of the normal equations' matrix with their eigenvectors, which are columns."""
        values, vectors = np.linalg.eigh(self.columns.T @ self.columns)
        kept = values > 1e-10 * max(1.0, values[-1])
        return values[kept], vectors[:, kept]

    def estimable(self, weights: Floats) -> Bools:
        """Which contrasts, rows of ``weights`` of shape (contrasts, arms), these runs determine."""
        full = np.hstack([weights, np.zeros((len(weights), self.seeds))])
        return np.asarray(np.abs(full @ self.inverse @ self.columns - full).max(axis=1, initial=0) < 1e-8)

    def estimate(self, weights: Floats, values: Floats) -> Floats:
        """Estimated contrasts, of shape (contrasts, data sets)."""
        return np.asarray(self._rows(weights) @ values)

    def covariance(self, weights: Floats) -> Floats:
        """The covariance matrix of the estimated contrasts, in units of the residual variance."""
        rows = self._rows(weights)
        return np.asarray(rows @ rows.T)

    def residuals(self, values: Floats) -> Floats:
        """The values minus those of the fitted model, of shape (runs, data sets)."""
        return values - self.columns @ (self.inverse @ values)

    def residual_squares(self, values: Floats) -> Floats:
        """The sum of squared residuals of each data set. Sums that are rounding errors are zero."""
        residuals = self.residuals(values)
        squares = (residuals**2).sum(axis=0)
        return np.where(squares < (1e-13 * np.abs(values).max(axis=0, initial=0)) ** 2 * len(values), 0.0, squares)

    def arm_part(self, arm: int, residuals: Floats) -> tuple[Floats, int]:
        """The part of the residual sum of squares that vanishes if an arm is left out, of shape (data sets,), and its
        degrees of freedom."""
        runs = np.flatnonzero(self.arm == arm)
        values, vectors = np.linalg.eigh(np.eye(len(runs)) - self.columns[runs] @ self.inverse[:, runs])
        kept = values > 1e-9
        parts = vectors[:, kept].T @ residuals[runs]
        return (parts**2 / values[kept, None]).sum(axis=0), int(kept.sum())

    def complete(self, weights: Floats) -> Bools:
        """The seeds at which every arm of one contrast has a run."""
        return np.asarray((self._runs[weights != 0] >= 0).all(axis=0))

    def per_seed(self, weights: Floats, values: Floats) -> Floats:
        """One contrast within each of its complete seeds, of shape (seeds, data sets)."""
        runs = self._runs[np.ix_(weights != 0, self.complete(weights))]
        return np.asarray(np.einsum("a,asd->sd", weights[weights != 0], values[runs]))

    @cached_property
    def _runs(self) -> Ints:
        """The run of each arm and seed, of shape (arms, seeds); -1 where there is none."""
        runs = np.full((self.arms, self.seeds), -1)
        runs[self.arm, self.seed] = np.arange(len(self.arm))
        return runs

    def _rows(self, weights: Floats) -> Floats:
        return np.asarray(weights @ self.inverse[: self.arms])
