"""How much sooner an arm reaches the baseline's final loss: known curves, noise, runs that never do, and properties."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from gptx.statistics.reach import Crossing, Curve, first_crossing, reach

STEPS = [100.0, 200.0, 400.0, 800.0]


def power_law(scale: float, steps: list[float] = STEPS) -> Curve:
    """A loss that is linear in the logarithm of the steps; a larger scale is later."""
    return Curve(steps, [10 - math.log(step / scale) for step in steps])


def test_crossing_is_interpolated_on_the_logarithmic_axis() -> None:
    assert first_crossing(power_law(1), 10 - math.log(300)) == Crossing(pytest.approx(300))
    assert first_crossing(power_law(1), 10 - math.log(200)) == Crossing(pytest.approx(200))
    assert first_crossing(power_law(1), 0.0) is None
    assert first_crossing(power_law(1), 100.0) == Crossing(100.0, at_first=True)


def test_first_crossing_of_a_noisy_curve_counts() -> None:
    assert first_crossing(Curve(STEPS, [5, 3, 4, 3]), 3.5).position == pytest.approx(100 * 2**0.75)  # type: ignore[union-attr]
    assert first_crossing(Curve([0.0, *STEPS], [1, 5, math.nan, 3, 2]), 3.0) == Crossing(pytest.approx(400))


def test_known_ratio_and_its_interval() -> None:
    scales = [0.7, 0.8, 0.75]
    found = reach([(power_law(scale), power_law(1)) for scale in scales])
    logs = np.log(scales)
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert [found.ratio, found.low, found.high] == pytest.approx(np.exp([logs.mean(), low, high]))
    assert found.median == pytest.approx(0.75) and (found.runs, found.never, found.at_first) == (3, 0, 0)
    assert found.describe("tokens") == "reaches it in 0.75 of the tokens, 0.63 to 0.88"


def test_each_seed_has_its_own_target() -> None:
    """A seed that is worse for both arms does not change the ratio."""
    other = [Curve(STEPS, [loss + 1 for loss in power_law(scale).losses]) for scale in (0.5, 1)]
    found = reach([(power_law(0.5), power_law(1)), (other[0], other[1])])
    assert [found.ratio, found.low, found.high] == pytest.approx([0.5] * 3)


def test_runs_that_never_reach_the_target_are_counted_and_leave_no_ratio() -> None:
    found = reach([(power_law(scale), power_law(1)) for scale in (0.5, 0.8, 2, 0.6, 3)])
    assert (found.never, found.runs, found.ratio, found.low, found.high) == (2, 5, None, None, None)
    assert found.median == pytest.approx(0.8), "the middle one of 0.5, 0.6, 0.8, never, never"
    assert found.describe("steps") == "2 of 5 never reach it; the median run needs 0.80 of the steps"
    found = reach([(power_law(scale), power_law(1)) for scale in (0.5, 2)])
    assert found.median is None and found.describe("steps") == "1 of 2 never reach it"


def test_one_seed_has_no_interval() -> None:
    found = reach([(power_law(0.5), power_law(1))])
    assert (found.low, found.high) == (None, None) and found.describe("steps") == "reaches it in 0.50 of the steps"


def test_target_reached_at_the_first_validation_is_an_upper_bound() -> None:
    found = reach([(power_law(0.1), power_law(1))] * 2)
    assert found.at_first == 2 and found.describe("steps") == "reaches it in at most 0.13 of the steps, 0.13 to 0.13"


def test_a_baseline_at_its_target_from_the_first_validation_on_gives_no_ratio() -> None:
    flat = Curve((100.0, 200.0, 400.0), (3.0, 3.1, 3.0))
    found = reach([(power_law(0.5), power_law(1)), (power_law(0.5), flat)])
    assert found.baseline_at_first == 1 and (found.ratio, found.low, found.high, found.median) == (None,) * 4
    expected = "no ratio: 1 of 2 runs of the baseline have reached their last loss at the first validation"
    assert found.describe("steps").endswith(expected) or found.never
    assert reach([(flat, flat)]).describe("steps").startswith("no ratio: 1 of 1 runs of the baseline")


def test_an_equal_arm_does_not_seem_to_be_faster() -> None:
    """Noisy curves touch the target early, the arm's as well as the baseline's."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 41) * 100.0
    curves = [Curve(steps, 5 - np.log(steps) + 0.1 * rng.standard_normal(40)) for _ in range(2000)]
    pairs = list(zip(curves[::2], curves[1::2], strict=True))
    assert 0.2 < reach(pairs).never / len(pairs) < 0.6, "runs of an equal arm that never reach the target"
    both = [[first_crossing(curve, other.losses[-1]) for curve in (arm, other)] for arm, other in pairs]
    reached = [(own.position, base.position) for own, base in both if own and base]
    own, base = np.log(reached).mean(0)
    assert abs(own - base) < 0.05 and own < math.log(4000) - 0.1, "the end of the baseline would be a biased reference"


def test_inputs_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        reach([])
    with pytest.raises(ValueError, match="no finite validation loss"):
        reach([(power_law(1), Curve([1.0], [math.nan]))])
    for wrong in (Curve([1.0, 1.0], [1, 2]), Curve([1.0], [1, 2])):
        with pytest.raises(ValueError, match="ascending positions"):
            wrong.points()


losses = st.lists(st.floats(0.1, 10), min_size=2, max_size=8)
seeds = st.lists(st.tuples(losses, losses), min_size=1, max_size=4)


def curves(
    values: list[tuple[list[float], list[float]]], power: float = 1, scale: float = 1
) -> list[tuple[Curve, Curve]]:
    """Curves with positions 1, 2, ..., of which those of the arm are ``scale * position ** power``."""

    def positions(n: int) -> list[float]:
        return [float(i) ** power for i in range(1, n + 1)]

    return [
        (Curve([scale * at for at in positions(len(arm))], arm), Curve(positions(len(base)), base))
        for arm, base in values
    ]


@given(losses)
def test_the_baseline_against_itself_is_1(values: list[float]) -> None:
    own = Curve([float(i) for i in range(1, len(values) + 1)], values)
    assume(values[0] > values[-1])
    found = reach([(own, own)] * 3)
    assert (found.ratio, found.low, found.high, found.median, found.never) == (1, 1, 1, 1, 0)


@given(seeds, st.floats(0.1, 10), st.floats(0.2, 3))
def test_scaling_an_axis_scales_the_ratio_and_a_power_raises_it(
    values: list[tuple[list[float], list[float]]], scale: float, power: float
) -> None:
    plain, scaled, raised = (
        reach(curves(values)),
        reach(curves(values, scale=scale)),
        reach(curves(values, power=power)),
    )
    assert plain.never == scaled.never == raised.never
    for name in ("ratio", "low", "high", "median"):
        before = getattr(plain, name)
        if before is None:
            assert getattr(scaled, name) is None and getattr(raised, name) is None
        else:
            assert getattr(scaled, name) == pytest.approx(before * scale, rel=1e-6)
            assert getattr(raised, name) == pytest.approx(before**power, rel=1e-6)


@given(seeds, st.floats(0.1, 5))
def test_lower_losses_are_reached_later(values: list[tuple[list[float], list[float]]], worse: float) -> None:
    later = [([loss + worse for loss in arm], base) for arm, base in values]
    before, after = reach(curves(values)), reach(curves(later))
    assert after.never >= before.never
    if before.ratio and after.ratio:
        assert after.ratio >= before.ratio * (1 - 1e-9)
