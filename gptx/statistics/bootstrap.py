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


def bca_ratios(sums: Floats, counts: Floats, resamples: int, level: float) -> list[tuple[float, float, float]]:
    """BCa intervals (Efron 1987) of the ratios sum(sums) / sum(counts): low, high and the standard error of each row.

    ``sums`` has the shape (ratios, blocks) and ``counts`` (blocks,). All rows share the resamples of the blocks, which
    have a fixed seed, and a resample is a matrix product, so that many rows take about as long as one.
    """
    from scipy.special import ndtr, ndtri

    blocks = len(counts)
    drawn = np.random.default_rng(0).integers(0, blocks, (resamples, blocks)) + blocks * np.arange(resamples)[:, None]
    chosen = np.bincount(drawn.ravel(), minlength=resamples * blocks).reshape(resamples, blocks).astype(float)
    found = np.sort((chosen @ sums.T) / (chosen @ counts)[:, None], axis=0)  # (resamples, ratios)
    estimates = sums.sum(axis=1) / counts.sum()
    without = (sums.sum(axis=1)[:, None] - sums) / (counts.sum() - counts)  # the jackknife, (ratios, blocks)
    deviations = without.mean(axis=1, keepdims=True) - without
    skew = (deviations**3).sum(axis=1) / (6 * (deviations**2).sum(axis=1) ** 1.5)
    bias = ndtri(((found < estimates).mean(axis=0) + (found <= estimates).mean(axis=0)) / 2)
    limits = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + ndtri(tail)
        share = ndtr(bias + z / (1 - skew * z))
        limits.append([float(np.quantile(column, q)) for column, q in zip(found.T, share, strict=True)])
    return list(zip(*limits, map(float, found.std(axis=0, ddof=1)), strict=True))
