"""Power and seeds needed, against the noncentral t and simulations."""

import numpy as np
import pytest
from scipy import stats

from gptx.statistics.power import paired_plan, pooled_plan, upper_deviation


@pytest.mark.parametrize(("difference", "seeds"), [(0.5, 10), (1.0, 5), (2.0, 4), (0.1, 30)])
def test_power_of_one_paired_difference_is_that_of_the_noncentral_t(difference: float, seeds: int) -> None:
    expected = stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, difference * np.sqrt(seeds))
    assert paired_plan(1.0, 1).different(difference, 0.0, seeds) == pytest.approx(expected, abs=1e-4)


def test_power_of_an_equivalence_against_simulation() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(0.1, 1, (8, 200_000))
    half = stats.t.ppf(0.975, 7) * sample.std(axis=0, ddof=1) / np.sqrt(8)
    inside = (np.abs(sample.mean(axis=0)) + half <= 1.2).mean()
    assert paired_plan(1.0, 1).equivalent(0.1, 1.2, 8) == pytest.approx(inside, abs=4e-3)


@pytest.mark.parametrize("plan", [pooled_plan(0.01, 4), pooled_plan(0.01, 2), paired_plan(0.014, 3)])
def test_the_seeds_needed_are_the_fewest_with_80_percent_power(plan) -> None:  # type: ignore[no-untyped-def]
    needed = plan.seeds_needed(0.01)
    assert needed.if_margin and needed.if_zero
    assert plan.different(0.01, 0.01, needed.if_margin) >= 0.8 > plan.different(0.01, 0.01, needed.if_margin - 1)
    assert plan.equivalent(0, 0.01, needed.if_zero) >= 0.8 > plan.equivalent(0, 0.01, needed.if_zero - 1)


def test_more_than_a_thousand_seeds_are_not_a_number() -> None:
    needed = pooled_plan(1.0, 3).seeds_needed(0.01)
    assert (needed.if_margin, needed.if_zero) == (None, None)


def test_no_spread_needs_two_seeds() -> None:
    needed = pooled_plan(0.0, 3).seeds_needed(0.01)
    assert (needed.if_margin, needed.if_zero) == (2, 2)


def test_the_visible_difference_is_found_with_80_percent_power() -> None:
    plan = pooled_plan(0.01, 5)
    assert plan.different(plan.visible_difference(4), 0.0, 4) == pytest.approx(0.8, abs=1e-6)


def test_the_upper_limit_of_the_spread_covers_it_in_80_percent_of_samples() -> None:
    deviations = np.random.default_rng(0).normal(0, 1, (6, 20_000)).std(axis=0, ddof=1)
    assert np.mean([upper_deviation(s, 5) >= 1 for s in deviations[:2000]]) == pytest.approx(0.8, abs=0.03)


def test_all_pairs_need_more_seeds_than_comparisons_with_a_baseline() -> None:
    baseline, pairs = (pooled_plan(0.01, 4, all_pairs=flag).seeds_needed(0.01) for flag in (False, True))
    assert baseline.if_margin and pairs.if_margin and baseline.if_margin < pairs.if_margin
