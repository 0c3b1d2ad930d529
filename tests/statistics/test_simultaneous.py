"""Critical values against other code: scipy's multivariate t, studentised range and Dunnett test."""

import numpy as np
import pytest
from scipy import stats

from gptx.statistics.simultaneous import bonferroni_value, critical_value, dunnett_value


def shared_baseline(contrasts: int) -> np.ndarray:
    return np.full((contrasts, contrasts), 0.5) + 0.5 * np.eye(contrasts)


@pytest.mark.parametrize(("contrasts", "df"), [(2, 2), (3, 6), (3, 27), (9, 18), (15, 60)])
def test_comparisons_with_a_baseline_against_the_multivariate_t_of_scipy(contrasts: int, df: int) -> None:
    correlation = shared_baseline(contrasts)
    assert dunnett_value(contrasts, df) == pytest.approx(critical_value(correlation, df), rel=1e-8)
    q = np.full(contrasts, critical_value(correlation, df))
    rng = np.random.default_rng(0)
    inside = stats.multivariate_t(shape=correlation, df=df, seed=rng).cdf(q, lower_limit=-q, random_state=rng)
    assert inside == pytest.approx(0.95, abs=5e-4)


@pytest.mark.parametrize(("arms", "df"), [(3, 4), (4, 9), (6, 20), (9, 40)])
def test_all_pairs_against_the_studentised_range(arms: int, df: int) -> None:
    """In a balanced design, all pairs together have the distribution of Tukey's studentised range over sqrt(2)."""
    identity = np.eye(arms)
    pairs = np.array([identity[i] - identity[j] for i in range(arms) for j in range(i)])
    expected = stats.studentized_range.ppf(0.95, arms, df) / np.sqrt(2)
    assert critical_value(pairs @ pairs.T / 2, df) == pytest.approx(expected, abs=2e-3)


def test_both_integrals_agree_where_the_correlation_is_nearly_a_product() -> None:
    correlation = shared_baseline(4)
    nearly = correlation.copy()
    nearly[0, 1] = nearly[1, 0] = 0.5 + 1e-6
    assert critical_value(nearly, 8) == pytest.approx(critical_value(correlation, 8), abs=1e-3)


def test_one_contrast_twice_counts_once_and_bonferroni_is_an_upper_limit() -> None:
    t = bonferroni_value(1, 7)
    assert critical_value(np.ones((1, 1)), 7) == t == pytest.approx(stats.t.ppf(0.975, 7))
    assert critical_value(np.ones((2, 2)), 7) == pytest.approx(t, abs=1e-6)
    assert critical_value(-np.ones((2, 2)) + 2 * np.eye(2), 7) == pytest.approx(t, abs=1e-6)
    assert t < critical_value(np.eye(3), 7) < bonferroni_value(3, 7)


def test_uncorrelated_contrasts_with_many_degrees_of_freedom_are_independent() -> None:
    expected = stats.norm.ppf((1 + 0.95 ** (1 / 3)) / 2)
    assert critical_value(np.eye(3), 1e6) == pytest.approx(expected, abs=1e-3)
