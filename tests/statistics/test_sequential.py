"""Seeds until decided: the limits are exact, the decisions follow from the results alone, and the level is kept."""

import math
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from benchmarks.sequential import DESIGN, NO_EFFECT, OtherSpread, Truth, false_alarms, main, savings, sequential, skewed
from gptx.statistics.repeated_t_limits import Spending, repeated_t_limits
from gptx.statistics.sequential import ArmProgress, SequentialArm, SequentialDesign, SequentialState, follow_seeds
from gptx.statistics.verdict import Interval, Verdict

SMALL = SequentialDesign(min_seeds=3, max_seeds=6, margin=0.01)
Values = dict[str, list[float]]


def frame(values: Values) -> pd.DataFrame:
    rows = [(arm, seed, value) for arm, given in values.items() for seed, value in enumerate(given)]
    return pd.DataFrame(rows, columns=["arm", "seed", "value"]).astype({"arm": object, "seed": int, "value": float})


def follow(values: Values, design: SequentialDesign = SMALL, arms: tuple[str, ...] = ("base", "a")) -> SequentialState:
    return follow_seeds(frame(values), arms, "base", range(design.max_seeds), design)


def only(state: SequentialState) -> SequentialArm:
    (arm,) = state.arms
    return arm


# ------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("spending", Spending)
def test_a_single_look_is_the_t_test(spending: Spending) -> None:
    (limit,) = repeated_t_limits(5, 5, 0.05, spending)
    assert limit == pytest.approx(student.isf(0.025, 4))


@pytest.mark.parametrize("spending", Spending)
def test_limits_are_crossed_as_often_as_the_level_is_spent(spending: Spending) -> None:
    """Compared with simulated t statistics, at each look."""
    simulations, first, last, level = 100_000, 3, 7, 0.2
    x = np.random.default_rng(0).standard_normal((simulations, last))
    n = np.arange(1, last + 1)
    mean = x.cumsum(1) / n
    with np.errstate(invalid="ignore", divide="ignore"):
        t = mean * np.sqrt(n) / np.sqrt(((x * x).cumsum(1) - n * mean**2) / (n - 1))
    crossed = np.abs(t[:, first - 1 :]) > np.array(repeated_t_limits(first, last, level, spending))
    share = np.logical_or.accumulate(crossed, 1).mean(0)
    spent = [spending.spent(level, look / last) for look in range(first, last + 1)]
    assert spent[-1] == pytest.approx(level)
    assert share == pytest.approx(spent, abs=3 * math.sqrt(level / simulations))


def test_limits_do_not_depend_on_the_grid() -> None:
    assert repeated_t_limits(5, 8, 0.02) == pytest.approx(repeated_t_limits(5, 8, 0.02, bins=800), rel=2e-3)


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 8), st.integers(0, 4), st.floats(1e-4, 0.3))
def test_last_limit_is_between_one_look_and_bonferroni(first: int, more: int, level: float) -> None:
    limits = repeated_t_limits(first, first + more, level, bins=100)
    last = first + more
    assert len(limits) == more + 1
    assert (
        student.isf(level / 2, last - 1) * 0.999 <= limits[-1] <= student.isf(level / 2 / (more + 1), last - 1) * 1.001
    )


@pytest.mark.parametrize(("first", "last", "level"), [(1, 5, 0.05), (6, 5, 0.05), (3, 5, 0.0), (3, 5, 1.0)])
def test_limits_that_make_no_sense(first: int, last: int, level: float) -> None:
    with pytest.raises(ValueError, match="expected 2 <= first <= last"):
        repeated_t_limits(first, last, level)


# ---------------------------------------------------------------------------------------------------------- decisions


def test_nothing_is_decided_before_min_seeds() -> None:
    state = follow({"base": [1.0, 1.1], "a": [0.5]})
    assert only(state) == SequentialArm(arm="a", progress=ArmProgress.CONTINUES)
    assert state.needed == (("a", 1), ("base", 2), ("a", 2))
    assert follow({}).needed == tuple((arm, seed) for seed in range(3) for arm in ("base", "a"))


def test_an_arm_stops_at_the_first_look_that_decides_and_the_baseline_continues_for_others() -> None:
    base = [1.0, 1.2, 0.9]
    values = {
        "base": base,
        "far": [x - 5 + 0.001 * i for i, x in enumerate(base)],
        "same": [x + 1e-7 * i for i, x in enumerate(base)],
        "near": [x + (-1) ** i * 0.02 for i, x in enumerate(base)],
    }
    state = follow(values, arms=tuple(values))
    far, same, near = state.arms
    assert (far.verdict, far.seeds, far.stopped_early) == (Verdict.BETTER, 3, True)
    assert (same.verdict, same.progress) == (Verdict.EQUIVALENT, ArmProgress.DECIDED)
    assert near.progress is ArmProgress.CONTINUES and near.verdict is Verdict.UNDECIDED and near.seeds == 3
    assert state.needed == (("base", 3), ("near", 3))


def test_interval_is_that_of_the_paired_differences() -> None:
    design, differences = replace(SMALL, min_seeds=4, max_seeds=4), [0.03, 0.05, 0.02, 0.04]
    base = [3.0, 1.0, 2.0, 5.0]
    state = follow({"base": base, "a": [x + d for x, d in zip(base, differences, strict=True)]}, design)
    half = student.isf(0.025, 3) * np.std(differences, ddof=1) / 2
    found = only(state).interval
    assert found is not None
    assert [found.estimate, found.low, found.high] == pytest.approx([0.035, 0.035 - half, 0.035 + half])
    assert only(state).verdict is Verdict.WORSE and not only(state).stopped_early and state.needed == ()


def test_the_better_side_is_that_of_the_metric() -> None:
    values = {"base": [0.0, 0.0, 0.0], "a": [5.0, 5.001, 5.002]}
    assert only(follow(values)).verdict is Verdict.WORSE
    assert only(follow(values, replace(SMALL, higher_is_better=True))).verdict is Verdict.BETTER


def test_level_is_shared_by_the_arms() -> None:
    assert SMALL.limits(4) == repeated_t_limits(3, 6, 0.05 / 4)
    values = {"base": [0.0] * 3, "a": [0.1, 0.2, 0.3]}
    alone, among = only(follow(values)).interval, follow(values, arms=("base", "a", "b", "c")).arms[0].interval
    assert alone and among and among.low < alone.low and alone.high < among.high


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_arm_with_a_diverged_run_stops_without_a_verdict(bad: float) -> None:
    base = [1.0, 1.2, 0.9]
    state = follow({"base": base, "a": [-4.0, -3.8, bad], "b": base}, arms=("base", "a", "b"))
    assert state.arms[0] == SequentialArm(arm="a", progress=ArmProgress.FAILED)
    assert state.arms[1].verdict is Verdict.EQUIVALENT
    early = follow({"base": [], "a": [bad]}, arms=("base", "a", "b"))
    assert early.arms[0].progress is ArmProgress.FAILED and all(arm != "a" for arm, _ in early.needed)


def test_without_a_baseline_all_undecided_arms_stop() -> None:
    values = {"base": [0.0, 0.0, 0.0, math.nan], "far": [5.0, 5.001, 5.002], "near": [0.1, -0.1, 0.0]}
    far, near = (state := follow(values, arms=tuple(values))).arms
    assert far.verdict is Verdict.WORSE, "it was decided with the seeds before"
    assert near.progress is ArmProgress.FAILED and near.seeds == 3 and near.interval and state.needed == ()


def test_undecided_after_the_last_look() -> None:
    state = follow({"base": [0.0] * 6, "a": [0.1, -0.1] * 3})
    assert only(state).progress is ArmProgress.MAX_SEEDS and not only(state).stopped_early
    assert only(state).seeds == 6 and state.needed == ()


def test_equal_differences_have_a_point_interval() -> None:
    state = follow({"base": [1.0, 2.0, 3.0], "a": [1.0, 2.0, 3.0]})
    assert only(state).interval == Interval(estimate=0, low=0, high=0) and only(state).verdict is Verdict.EQUIVALENT


def test_only_the_baseline_needs_nothing() -> None:
    assert follow({}, arms=("base",)) == SequentialState(arms=(), needed=())


def test_inputs_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="baseline"):
        follow_seeds(frame({}), ["a", "b"], "base", range(6), SMALL)
    with pytest.raises(ValueError, match="6 different seeds"):
        follow_seeds(frame({}), ["base", "a"], "base", [0, 1, 2, 3, 4, 4], SMALL)
    with pytest.raises(ValueError, match="two results"):
        follow_seeds(pd.concat([frame({"a": [1.0]})] * 2), ["base", "a"], "base", range(6), SMALL)


losses = st.lists(st.one_of(st.floats(-1, 1), st.just(math.nan), st.floats(3, 3.01)), max_size=6)


@settings(max_examples=20, deadline=None)
@given(losses, losses, losses, st.randoms())
def test_decisions_do_not_depend_on_the_order_or_on_other_results(
    base: list[float], a: list[float], b: list[float], shuffle: random.Random
) -> None:
    """Running only what is needed, one run after another, ends as all results at once would."""
    arms = ("base", "a", "b")
    full = {
        arm: [*given, *[0.5 + i for i in range(6 - len(given))]] for arm, given in zip(arms, (base, a, b), strict=True)
    }
    known: list[tuple[str, int, float]] = []
    empty = frame({})
    while True:
        results = pd.DataFrame(known, columns=["arm", "seed", "value"]) if known else empty
        state = follow_seeds(results, arms, "base", range(6), SMALL)
        if not state.needed:
            break
        arm, seed = shuffle.choice(state.needed)
        known.append((arm, seed, full[arm][seed]))
    extra = pd.concat([frame(full), frame({"other": [1.0]})])
    assert repr(follow_seeds(extra, arms, "base", range(6), SMALL)) == repr(state)


@settings(max_examples=30, deadline=None)
@given(losses, losses, st.integers(-20, 20))
def test_verdicts_do_not_depend_on_the_unit(base: list[float], a: list[float], power: int) -> None:
    unit = 2.0**power  # exact in floating point
    scaled = {"base": [x * unit for x in base], "a": [x * unit for x in a]}
    before, after = only(follow({"base": base, "a": a})), only(follow(scaled, replace(SMALL, margin=0.01 * unit)))
    assert replace(before, interval=None) == replace(after, interval=None)


# ------------------------------------------------------------------------------------------------------------- level


def test_simulations_decide_as_the_sweep_does() -> None:
    design = replace(DESIGN, min_seeds=3, max_seeds=7, margin=1.0)
    draws = Truth("", effects=(0, 1, 5), spread=(0.4,) * 4).draws(30, 7)
    found = sequential(draws, design)
    for row, results in enumerate(draws):
        state = follow_seeds(frame(dict(zip("zabc", results.tolist(), strict=True))), "zabc", "z", range(7), design)
        for column, arm in enumerate(state.arms):
            verdicts = {"equivalent": found.equivalent, "worse": found.worse, "better": found.better}
            named = [name for name, verdict in verdicts.items() if verdict[row, column]] or ["undecided"]
            assert (named, found.seeds[row, column]) == ([arm.verdict], arm.seeds)
    assert found.decided.any() and not found.decided.all() and len(set(found.seeds.ravel())) > 2


def test_benchmark_prints_its_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.sequential.OtherSpread", lambda design, pooled: OtherSpread(design, pooled, 1000))
    assert main(["--simulations", "20"]) == 0
    output = capsys.readouterr().out
    assert all(f"| {truth.name} |" in output for truth in NO_EFFECT) and "| 0, 1 and 10 margins |" in output


SYMMETRIC = [truth for truth in NO_EFFECT if truth.draw is not skewed or len({*truth.spread}) == 1]


@pytest.mark.parametrize("truth", SYMMETRIC, ids=lambda truth: truth.name)
def test_level_is_kept(truth: Truth) -> None:
    simulations = 2000
    error = math.sqrt(DESIGN.level * (1 - DESIGN.level) / simulations)
    assert false_alarms(truth, DESIGN, simulations) <= 1 - DESIGN.level + 2 * error


@pytest.mark.parametrize("effect", [0.0, 1.0, 2.0])
def test_fewer_runs_than_the_fixed_design_of_equal_power(effect: float) -> None:
    found = savings(Truth("", spread=(math.sqrt(0.5),) * 4, effects=(effect,) * 3), replace(DESIGN, margin=1.0), 2000)
    assert found.fixed_seeds and found.runs < 4 * found.fixed_seeds and found.wrong < 0.02


@pytest.mark.full
def test_spread_of_the_first_seeds_does_not_keep_the_level_with_outliers() -> None:
    """The reason why the spread is estimated from all seeds."""
    truth = next(truth for truth in NO_EFFECT if truth.name.startswith("outliers"))
    assert OtherSpread(DESIGN, pooled=False).false_alarms(truth.draws(2000, DESIGN.max_seeds)) > 0.1
