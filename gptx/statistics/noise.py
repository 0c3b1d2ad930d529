"""The noise floor: what difference two seeds of one arm make, and the smallest difference that the seeds can show."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gptx.statistics.block_model import BlockModel, Floats
from gptx.statistics.contrast_intervals import ContrastFamily
from gptx.statistics.power import SeedPlan, paired_plan
from gptx.statistics.run_table import RunTable, baseline_weights

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """Values in the unit of the metric, without diverged runs; NaN where the runs do not determine them."""

    deviation: float
    """Standard deviation between seeds of one arm, pooled over the arms."""
    typical_difference: float
    """Mean absolute difference of two seeds of one arm (Gini's mean difference), which assumes no distribution."""
    visible_difference: float
    """The smallest true difference from the baseline that is found better or worse with 80 % power, for the least
    precise arm, if the estimated spread is the true one."""
    seeds: int
    """The fewest finite runs of an arm."""


def noise_floor(frame: "pd.DataFrame", baseline: str, level: float = 0.95) -> NoiseFloor:
    """The noise floor of the comparison of the arms of ``frame`` (arm, seed, value) with ``baseline``."""
    table = RunTable.of(frame)
    samples = [row[finite] for row, finite in zip(table.values, table.finite, strict=True)]
    squares = sum(((sample - sample.mean()) ** 2).sum() for sample in samples if len(sample))
    df = sum(len(sample) - 1 for sample in samples if len(sample))
    pairs = np.concatenate([_pair_differences(sample) for sample in samples] or [np.array([])])
    return NoiseFloor(
        deviation=float(np.sqrt(squares / df)) if df else np.nan,
        typical_difference=float(pairs.mean()) if len(pairs) else np.nan,
        visible_difference=_visible_difference(table, baseline, level),
        seeds=min((len(sample) for sample in samples), default=0),
    )


def _pair_differences(sample: Floats) -> Floats:
    """The absolute differences of all pairs."""
    first, second = np.triu_indices(len(sample), 1)
    return np.asarray(np.abs(sample[first] - sample[second]))


def _visible_difference(table: RunTable, baseline: str, level: float) -> float:
    family = ContrastFamily(BlockModel.of_present(table.finite), baseline_weights(table, baseline), level)
    if not family.has_intervals:
        return np.nan
    result = family.intervals(table.values[table.finite][:, None])
    errors = result.errors[:, 0]
    if not result.unpooled[0]:
        worst, df, value = np.nanmax(errors), family.model.df, family.pooled_value
        return SeedPlan(float(worst), lambda _: df, lambda _: value).visible_difference(1)
    return max(
        paired_plan(float(error * np.sqrt(n)), family.paired_count, level).visible_difference(n)
        for error, n in zip(errors, family.complete_seeds, strict=True)
        if n >= 2
    )
