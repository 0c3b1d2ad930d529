"""Effects against published examples, other code, and the invariances of a difference."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from gptx.errors import GptxError
from gptx.statistics.block_model import BlockModel
from gptx.statistics.contrast_intervals import ContrastFamily, Method
from gptx.statistics.effects import Effects, effects
from gptx.statistics.verdict import Verdict


def table(values: np.ndarray, arms: str = "abcdefgh") -> pd.DataFrame:
    """Rows of a matrix of shape (arms, seeds)."""
    return pd.DataFrame([(arms[i], j, v) for (i, j), v in np.ndenumerate(values)], columns=["arm", "seed", "value"])


def simulated(arms: int, seeds: int, rng: int = 0) -> np.ndarray:
    generator = np.random.default_rng(rng)
    return 3 + generator.normal(0, 0.05, seeds) + generator.normal(0, 0.01, (arms, seeds))


def one_way(*samples: list[float]) -> ContrastFamily:
    """Differences of samples without blocks from the first one: all runs are in one block."""
    arm = np.repeat(np.arange(len(samples)), [len(sample) for sample in samples])
    model = BlockModel(arm, np.zeros_like(arm), len(samples), 1)
    return ContrastFamily(model, np.eye(len(samples))[1:] - np.eye(len(samples))[0])


def limits(family: ContrastFamily, *samples: list[float]) -> np.ndarray:
    result = family.intervals(np.concatenate(samples)[:, None])
    return np.hstack([result.estimates - result.half_widths, result.estimates + result.half_widths])


def test_dunnett_1955_blood_counts() -> None:
    """Dunnett (1955), section 4: blood counts of animals under two drugs; the data as printed in scipy's documentation.

    R's multcomp, as quoted in the tests of scipy, gives p = 0.6201020 and 0.0058254.
    """
    control = [7.40, 8.50, 7.20, 8.24, 9.84, 8.32]
    drugs = [9.76, 8.80, 7.68, 9.36], [12.80, 9.68, 12.16, 9.20, 10.55]
    family = one_way(control, *drugs)
    interval = stats.dunnett(*drugs, control=control, rng=np.random.default_rng(0)).confidence_interval()
    np.testing.assert_allclose(limits(family, control, *drugs), np.transpose(interval), atol=2e-3)
    errors = (
        np.sqrt(np.diag(family.covariance)) * family.intervals(np.concatenate([control, *drugs])[:, None]).deviations
    )
    t = family.intervals(np.concatenate([control, *drugs])[:, None]).estimates[:, 0] / errors
    np.testing.assert_allclose(t, [0.85703, 3.69375], atol=1e-5)  # statistics quoted in the tests of scipy
    for p, value in zip([0.6201020, 0.0058254], t, strict=True):
        at_p = ContrastFamily(family.model, family.weights, 1 - p)
        assert at_p.pooled_value == pytest.approx(value, abs=1e-3)


def test_refuses_a_baseline_that_does_not_exist_and_a_run_that_exists_twice() -> None:
    frame = table(simulated(3, 3))
    with pytest.raises(GptxError, match="baseline 'z' is not among the arms: a, b, c"):
        effects(frame, "z", 0.01)
    with pytest.raises(GptxError, match="arm 'a' has two rows for seed 0"):
        effects(pd.concat([frame, frame.head(1)]), "a", 0.01)
    with pytest.raises(GptxError, match="no column 'value'"):
        effects(frame.drop(columns="value"), "a", 0.01)


def test_one_seed_decides_nothing() -> None:
    result = effects(table(simulated(3, 1)), "a", 0.01)
    assert [e.verdict for e in result.effects] == [Verdict.UNDECIDED] * 2
    assert [e.interval for e in result.effects] == [None, None] and result.method is Method.NONE
    assert np.isfinite(result.of("b").estimate)


def diverged(*arms: str) -> Effects:
    values = simulated(3, 5)
    values[1] -= 1  # b is better, c is worse
    values[2] += 1
    for arm in arms:
        values["abc".index(arm), 0] = np.nan if arm == "b" else np.inf
    return effects(table(values), "a", 0.01)


def test_an_arm_with_a_diverged_run_is_never_better() -> None:
    assert [e.verdict for e in diverged().effects] == [Verdict.BETTER, Verdict.WORSE]
    assert [e.verdict for e in diverged("b", "c").effects] == [Verdict.UNDECIDED, Verdict.WORSE]
    assert diverged("b").of("b").note == "1 of 5 runs diverged; the estimate leaves them out"


def test_against_a_baseline_with_a_diverged_run_an_arm_is_never_worse() -> None:
    assert [e.verdict for e in diverged("a").effects] == [Verdict.BETTER, Verdict.UNDECIDED]
    assert diverged("a").notes == ("1 of 5 runs of the baseline diverged: an arm can be better, nothing else",)
    assert [e.verdict for e in diverged("a", "b", "c").effects] == [Verdict.UNDECIDED] * 2


@pytest.mark.parametrize("arm", ["a", "b"])
def test_an_arm_or_a_baseline_with_a_diverged_run_is_never_equivalent(arm: str) -> None:
    values = simulated(2, 10)
    assert effects(table(values), "a", 0.05).of("b").verdict is Verdict.EQUIVALENT
    values["ab".index(arm), 0] = np.nan
    assert effects(table(values), "a", 0.05).of("b").verdict is Verdict.UNDECIDED


def test_penicillin_of_box_hunter_and_hunter() -> None:
    """A randomised block design: Box, Hunter and Hunter (1978), p. 209; data as in the examples of R's package dae.

    Faraway ("Extending the linear model with R") prints a residual mean square of 18.8 (226 / 12), the differences 1,
    5, 2 from treatment A and their standard error 2.74.
    """
    blends = np.array([[89, 88, 97, 94], [84, 77, 92, 79], [81, 87, 87, 85], [87, 92, 89, 84], [79, 81, 80, 88]])
    result = effects(table(blends.T.astype(float)), "a", None, higher_is_better=True)
    assert (result.df, result.residual_deviation**2) == (12, pytest.approx(226 / 12))
    assert [effect.estimate for effect in result.effects] == pytest.approx([1, 5, 2])
    assert [round(effect.error, 2) for effect in result.effects] == [2.74] * 3
    assert all(effect.verdict is Verdict.UNDECIDED for effect in result.effects)  # F = 1.24, p = 0.339


def test_all_pairs_without_blocks_against_tukey_hsd_of_scipy() -> None:
    samples = [[24.5, 23.5, 26.4, 27.1, 29.9], [28.4, 34.2, 29.5, 32.2, 30.1], [26.1, 28.3, 24.3, 26.2, 27.8]]
    family = one_way(*samples)
    pairs = ContrastFamily(family.model, np.array([[-1.0, 1, 0], [-1, 0, 1], [0, -1, 1]]))
    expected = stats.tukey_hsd(*samples).confidence_interval()
    expected_limits = [[getattr(expected, side)[j, i] for side in ("low", "high")] for i, j in [(0, 1), (0, 2), (1, 2)]]
    np.testing.assert_allclose(limits(pairs, *samples), expected_limits, atol=2e-3)


def test_missing_runs_against_ols_of_statsmodels() -> None:
    from statsmodels.formula.api import ols

    frame = table(simulated(4, 6, rng=1)).drop([1, 8, 15, 22])
    result = effects(frame, "a", 0.01, all_pairs=True)
    assert result.method is Method.POOLED
    fit = ols("value ~ C(arm) + C(seed)", frame).fit()
    assert result.df == fit.df_resid and result.residual_deviation == pytest.approx(np.sqrt(fit.scale))
    for effect in result.effects:
        arm, base = (f"C(arm)[T.{name}]" for name in (effect.arm, effect.baseline))
        test = fit.t_test(f"{arm} = 0" if effect.baseline == "a" else f"{arm} - {base} = 0")
        assert effect.estimate == pytest.approx(test.effect[0]) and effect.error == pytest.approx(test.sd[0, 0])


def test_arms_without_a_shared_seed_say_so() -> None:
    values = np.full((4, 6), np.nan)
    values[0, :3], values[1, :4], values[2, 3:], values[3, 4:] = 3.0, 3.1, 3.2, 3.3
    values += np.random.default_rng(0).normal(0, 0.01, values.shape)
    result = effects(table(values).dropna(), "a", 0.01)
    assert result.of("b").note == "" and result.of("b").n == 3
    assert result.of("c").note == "shares no seed with a; the estimate goes through other arms"
    assert np.isfinite(result.of("c").estimate) and np.isfinite(result.of("d").estimate)
    alone = effects(table(values).dropna().query("arm != 'b'"), "a", 0.01)
    assert alone.of("c").note == "shares no seed with a, directly or through other arms"
    assert alone.of("c").interval is None and alone.of("c").verdict is Verdict.UNDECIDED


def test_an_arm_that_varies_more_switches_all_contrasts_to_paired_t() -> None:
    values = simulated(4, 10)
    values[2] += np.random.default_rng(5).normal(0, 0.2, 10)
    result = effects(table(values), "a", 0.01)
    assert result.method is Method.PAIRED and {e.method for e in result.effects} == {Method.PAIRED}
    assert result.notes == ("the arms differ in spread: paired t intervals with Bonferroni replace the pooled ones",)
    paired = stats.ttest_rel(values[1], values[0]).confidence_interval(1 - 0.05 / 3)
    interval = result.of("b").interval
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((paired.low, paired.high))
    assert {e.df for e in result.effects} == {9}
    assert effects(table(simulated(4, 10)), "a", 0.01).method is Method.POOLED


def test_an_arm_that_may_vary_more_gets_the_wider_interval() -> None:
    """With 3 seeds, no difference from a baseline that varies much more has an improbable share of the residuals."""
    values = simulated(3, 3)
    values[0] += np.array([3.0, -1.0, -2.0])
    result = effects(table(values), "a", 0.01)
    assert result.method is Method.WIDER and {e.method for e in result.effects} == {Method.WIDER}
    assert result.notes[0].startswith("an arm may differ in spread: each interval is the wider one")
    for row, arm in enumerate("bc", 1):
        effect = result.of(arm)
        paired = stats.ttest_rel(values[row], values[0]).confidence_interval(1 - 0.05 / 2)
        half = (paired.high - paired.low) / 2
        pooled = result.critical_value * result.residual_deviation * np.sqrt(2 / 3)
        assert effect.interval is not None
        assert effect.interval.high - effect.estimate == pytest.approx(max(half, pooled))


def test_the_part_of_an_arm_is_what_vanishes_without_it() -> None:
    rng = np.random.default_rng(2)
    present = rng.random((4, 6)) < 0.8
    model = BlockModel.of_present(present)
    values = rng.normal(size=(int(present.sum()), 3))
    for arm in range(4):
        rest = model.arm != arm
        without = BlockModel(model.arm[rest], model.seed[rest], 4, 6)
        part, df = model.arm_part(arm, model.residuals(values))
        assert df == model.df - without.df
        assert part == pytest.approx(model.residual_squares(values) - without.residual_squares(values[rest]))


def test_arms_with_pooled_intervals_share_one_plan_of_more_seeds() -> None:
    values = simulated(3, 10)
    result = effects(table(values), "a", 1e-4)
    needed = [effect.needed for effect in result.effects]
    assert result.method is Method.POOLED and needed[0] is not None and needed[0] is needed[1]


def test_paired_intervals_need_two_shared_seeds() -> None:
    values = simulated(4, 10)
    values[2] += np.random.default_rng(5).normal(0, 0.2, 10)
    values[3, 1:] = np.nan
    effect = effects(table(values).dropna(), "a", 0.01).of("d")
    assert (effect.n, effect.interval, effect.verdict) == (1, None, Verdict.UNDECIDED)
    assert effect.note == "no paired interval: shares fewer than two seeds with a"


def test_two_arms_give_the_paired_t_interval() -> None:
    values = simulated(2, 5)
    expected = stats.ttest_rel(values[1], values[0]).confidence_interval()
    interval = effects(table(values), "a", 0.01).of("b").interval
    assert interval is not None and (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_a_bootstrap_is_shown_from_8_seeds_on() -> None:
    assert effects(table(simulated(3, 7)), "a", 0.01).of("b").bootstrap is None
    effect = effects(table(simulated(3, 8)), "a", 0.01).of("b")
    assert effect.bootstrap is not None and effect.bootstrap.low < effect.estimate < effect.bootstrap.high


def test_the_seeds_needed_are_given_for_undecided_differences_with_a_margin_only() -> None:
    values = simulated(3, 3)
    values[2] += 1
    result = effects(table(values), "a", 0.01)
    assert result.of("b").needed is not None and result.of("c").needed is None
    assert effects(table(values), "a", None).of("b").needed is None


VALUES = arrays(float, (4, 5), elements=st.floats(-1, 1, width=32))
FEW = settings(max_examples=25, deadline=None)


def outcome(result: Effects) -> list[tuple[str, float, float, str]]:
    return [
        (e.arm, e.estimate, e.interval.high - e.estimate if e.interval else np.nan, e.verdict) for e in result.effects
    ]


def same(a: Effects, b: Effects, scale: float = 1.0) -> None:
    for (_, estimate, half, _), (_, other, other_half, _) in zip(outcome(a), outcome(b), strict=True):
        assert other == pytest.approx(scale * estimate, abs=1e-9) and other_half == pytest.approx(
            abs(scale) * half, abs=1e-9
        )


def noisy(values: np.ndarray) -> np.ndarray:
    """Values that have a residual spread, so that rounding cannot decide which method is used."""
    return values + simulated(4, 5)


@FEW
@given(VALUES, arrays(float, 5, elements=st.floats(-100, 100, width=32)))
def test_a_constant_per_seed_changes_nothing(values: np.ndarray, shift: np.ndarray) -> None:
    same(effects(table(noisy(values)), "a", None), effects(table(noisy(values) + shift), "a", None))


@FEW
@given(VALUES, st.sampled_from([-1.0, 0.5, 1000.0]))
def test_a_factor_scales_estimates_and_intervals(values: np.ndarray, scale: float) -> None:
    result, scaled = effects(table(noisy(values)), "a", None), effects(table(scale * noisy(values)), "a", None)
    for (_, estimate, half, _), (_, other, other_half, _) in zip(outcome(result), outcome(scaled), strict=True):
        assert other == pytest.approx(scale * estimate, rel=1e-6, abs=1e-7 * abs(scale))
        assert other_half == pytest.approx(abs(scale) * half, rel=1e-6, abs=1e-7 * abs(scale))


@settings(max_examples=10, deadline=None)
@given(VALUES)
def test_the_opposite_sign_with_the_opposite_direction_gives_the_same_verdicts(values: np.ndarray) -> None:
    losses = effects(table(noisy(values)), "a", 1.0)
    gains = effects(table(-noisy(values)), "a", 1.0, higher_is_better=True)
    assert [e.verdict for e in losses.effects] == [e.verdict for e in gains.effects]


@FEW
@given(VALUES, st.permutations(range(18)), st.permutations("wxyz"))
def test_neither_the_order_of_rows_nor_the_names_of_arms_matter(
    values: np.ndarray, order: list[int], names: list[str]
) -> None:
    frame = table(noisy(values)).drop([7, 13])  # the design has missing runs
    renamed = frame.iloc[order].assign(arm=lambda f: f["arm"].map(dict(zip("abcd", names, strict=True))))
    result, other = effects(frame, "a", None), effects(renamed, names[0], None)
    for effect in result.effects:
        twin = other.of(dict(zip("abcd", names, strict=True))[effect.arm])
        assert twin.estimate == pytest.approx(effect.estimate, abs=1e-9)
        assert effect.interval and twin.interval
        assert twin.interval.high - twin.estimate == pytest.approx(effect.interval.high - effect.estimate, rel=1e-3)
