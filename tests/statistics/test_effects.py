"""Effects against published examples, other code, and the invariances of a difference."""

import numpy as np
import pandas as pd
import pytest
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
