"""A bootstrap over paired differences, as a check of intervals that assume normal errors."""

import numpy as np

from gptx.statistics.block_model import Floats
from gptx.statistics.verdict import Interval

FEWEST_SEEDS = 8
RESAMPLES = 9999


def paired_bootstrap(differences: Floats, level: float) -> Interval | None:
    """The BCa interval (Efron 1987) of the mean of differences within seeds, of shape (seeds,), from 8 seeds on.

    The resampling has a fixed seed. Nothing if the differences are all the same.
    """
    from scipy import stats

    if len(differences) < FEWEST_SEEDS or np.ptp(differences) == 0:
        return None
    rng = np.random.default_rng(0)
    sample = stats.bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, confidence_level=level, method="BCa", rng=rng
    ).confidence_interval
    return Interval(estimate=float(differences.mean()), low=float(sample.low), high=float(sample.high))
