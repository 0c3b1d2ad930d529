"""The values of runs as a table of arms and seeds."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gptx.errors import GptxError
from gptx.statistics.block_model import Bools, Floats

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class RunTable:
    """One metric of all runs. ``values`` and ``exists`` have the shape (arms, seeds); a diverged run is not finite."""

    arms: tuple[str, ...]
    values: Floats
    exists: Bools

    @staticmethod
    def of(frame: "pd.DataFrame") -> "RunTable":
        """Reads the columns arm, seed and value; arms are sorted by name, so that the order of rows has no effect."""
        missing = [name for name in ("arm", "seed", "value") if name not in frame.columns]
        if missing:
            raise GptxError(f"the frame has no column {missing[0]!r}; expected the columns arm, seed and value")
        rows = frame[["arm", "seed", "value"]].assign(arm=frame["arm"].astype(str))
        twice = rows[rows.duplicated(["arm", "seed"])]
        if len(twice):
            arm, seed = twice.iloc[0][["arm", "seed"]]
            raise GptxError(f"arm {arm!r} has two rows for seed {seed}; expected one row per arm and seed")
        values = rows.pivot(index="arm", columns="seed", values="value").astype(float)
        exists = rows.assign(value=1.0).pivot(index="arm", columns="seed", values="value").notna()
        return RunTable(tuple(values.index), values.to_numpy(), exists.to_numpy())

    @property
    def finite(self) -> Bools:
        """The runs that have a finite value, of shape (arms, seeds)."""
        return np.asarray(np.isfinite(self.values))

    def runs(self, arm: str) -> int:
        """All runs of an arm, diverged ones included."""
        return int(self.exists[self.arms.index(arm)].sum())

    def diverged(self, arm: str) -> int:
        """The diverged runs of an arm."""
        row = self.arms.index(arm)
        return int((self.exists[row] & ~self.finite[row]).sum())


def baseline_weights(table: RunTable, baseline: str) -> Floats:
    """The contrasts arm - baseline of all other arms, of shape (arms - 1, arms), in the order of the arms."""
    identity = np.eye(len(table.arms))
    return np.delete(identity - identity[table.arms.index(baseline)], table.arms.index(baseline), axis=0)
