"""The noise floor, the doubt of the text, and factorial effects."""

import numpy as np
import pandas as pd
import pytest

from gptx.errors import GptxError
from gptx.statistics.factorial import factorial
from gptx.statistics.factorial_sentences import factorial_sentences
from gptx.statistics.noise import noise_floor
from gptx.statistics.power import pooled_plan
from gptx.statistics.text import Remedy, text_difference, text_verdict
from gptx.statistics.verdict import Verdict


def test_the_noise_floor_of_a_large_sample() -> None:
    rng = np.random.default_rng(0)
    values = 3 + rng.normal(0, 0.02, 400) + rng.normal(0, 0.01, (3, 400)) + np.array([[0], [1], [2]])
    rows = [(f"arm{i}", j, v) for (i, j), v in np.ndenumerate(values)]
    floor = noise_floor(pd.DataFrame(rows, columns=["arm", "seed", "value"]), "arm0")
    spread = np.hypot(0.02, 0.01)
    assert floor.deviation == pytest.approx(spread, rel=0.05) and floor.seeds == 400
    assert floor.typical_difference == pytest.approx(2 / np.sqrt(np.pi) * spread, rel=0.05)
    assert floor.visible_difference == pytest.approx(pooled_plan(0.01, 3).visible_difference(400), rel=0.05)


def test_the_noise_floor_without_a_second_seed() -> None:
    frame = pd.DataFrame({"arm": ["a", "b"], "seed": [0, 0], "value": [1.0, 2.0]})
    floor = noise_floor(frame, "a")
    assert np.isnan([floor.deviation, floor.typical_difference, floor.visible_difference]).all() and floor.seeds == 1


def documents(difference: float, noise: float, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    tokens = rng.integers(20, 200, count).astype(float)
    baseline = tokens * rng.normal(3, 0.5, count)
    return baseline + tokens * (difference + rng.normal(0, noise, count)), baseline, tokens


def test_the_text_difference_is_the_difference_of_losses_per_token_and_its_interval_covers() -> None:
    arm, baseline, tokens = documents(-0.02, 0.1)
    result = text_difference(arm, baseline, tokens)
    assert result.estimate == pytest.approx(arm.sum() / tokens.sum() - baseline.sum() / tokens.sum())
    errors = np.sqrt((((arm - baseline) - result.estimate * tokens) ** 2).sum()) / tokens.sum()  # linearised ratio
    assert result.error == pytest.approx(errors, rel=0.05)
    assert result.interval and result.interval.low < -0.02 < result.interval.high
    assert text_difference(arm, baseline, tokens) == result
    assert text_difference(np.stack([arm, arm]), np.stack([baseline, baseline]), tokens) == result


def test_few_documents_and_equal_losses_have_no_interval_and_shapes_must_match() -> None:
    arm, baseline, tokens = documents(-0.02, 0.1)
    assert text_difference(arm[:7], baseline[:7], tokens[:7]).interval is None
    assert text_difference(baseline, baseline, tokens).interval is None
    with pytest.raises(GptxError, match="expected equal shapes"):
        text_difference(arm, baseline, tokens[1:])


def test_a_verdict_that_another_text_could_reverse_holds_on_this_text() -> None:
    sure, unsure = (text_difference(*documents(-0.02, noise)) for noise in (0.01, 1.0))
    assert str(text_verdict(Verdict.BETTER, 0.001, sure, 0.01)) == "better"
    doubtful = text_verdict(Verdict.BETTER, 0.001, unsure, 0.01)
    assert str(doubtful) == "better on this text" and doubtful.remedy is Remedy.TEXT
    assert str(text_verdict(Verdict.EQUIVALENT, 0.001, unsure, 0.01)) == "equivalent on this text"
    assert str(text_verdict(Verdict.EQUIVALENT, 0.001, sure, 0.05)) == "equivalent"
    assert text_verdict(Verdict.UNDECIDED, 1.0, sure, 0.01).remedy is Remedy.SEEDS
    assert text_verdict(Verdict.UNDECIDED, float("nan"), unsure, 0.01).remedy is Remedy.SEEDS, "one seed"
    assert text_verdict(Verdict.UNDECIDED, unsure.error, unsure, 0.01).remedy is Remedy.BOTH
    assert text_verdict(Verdict.UNDECIDED, 0.001, unsure, 0.01).remedy is Remedy.TEXT


def grid(seeds: int = 5, missing: tuple[int, ...] = (), interaction: float = 0.0, rng_seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(rng_seed)
    block = rng.normal(0, 0.05, seeds)
    rows = []
    for pos in ("learned", "rope"):
        for window in ("full", "sliding"):
            for attention in ("gqa", "mha"):
                change = -0.5 * (pos == "rope") + 0.03 * (window == "sliding") + 0.0 * (attention == "mha")
                change += interaction * (pos == "rope") * (window == "sliding")
                rows += [
                    (pos, window, attention, s, 3 + change + block[s] + rng.normal(0, 0.003)) for s in range(seeds)
                ]
    return pd.DataFrame(rows, columns=["pos", "window", "attention", "seed", "value"]).drop(list(missing))


FACTORS = ("pos", "window", "attention")


def test_factorial_effects_against_ols_of_statsmodels() -> None:
    from statsmodels.formula.api import ols

    frame = grid(interaction=0.05, missing=(3, 17, 28), rng_seed=7)
    result = factorial(frame, FACTORS, 0.01)
    fit = ols("value ~ C(pos, Sum) * C(window, Sum) * C(attention, Sum) + C(seed)", frame).fit()
    main = {e.changes[0].factor: e for e in result.main}
    for factor, effect in main.items():  # sum coding: the coefficient of the first level is minus half the difference
        (name,) = [n for n in fit.params.index if n.startswith(f"C({factor}, Sum)") and ":" not in n]
        assert effect.estimate == pytest.approx(-2 * fit.params[name])
        assert effect.half_width > 0 and effect.averaged == (4, 4)
    (both,) = [e for e in result.interactions if {c.factor for c in e.changes} == {"pos", "window"}]
    (name,) = [n for n in fit.params.index if n.count(":") == 1 and "pos" in n and "window" in n]
    assert both.estimate == pytest.approx(4 * fit.params[name])


def test_sentences_name_simple_effects_and_claim_no_interaction_by_the_margin_only() -> None:
    sentence = factorial_sentences(factorial(grid(), FACTORS, 0.01))[0]
    assert sentence == (
        "rope (instead of learned) lowers the loss by 0.500 ± 0.005 under full and by 0.499 ± 0.003 under "
        "sliding; the interaction is within ± 0.01"
    )
    assert "within" not in factorial_sentences(factorial(grid(), FACTORS, None))[0]
    assert "the interaction is +0.0" in factorial_sentences(factorial(grid(interaction=0.05), FACTORS, 0.01))[0]


def test_a_missing_cell_leaves_its_combination_out_of_averages() -> None:
    frame = grid(missing=tuple(range(35, 40)))  # rope, sliding, mha has no run
    result = factorial(frame, FACTORS, 0.01)
    (pos,) = [e for e in result.main if e.changes[0].factor == "pos"]
    assert pos.averaged == (3, 4) and pos.estimate == pytest.approx(-0.5, abs=0.01)
    two = frame.query("attention == 'mha'")
    unknown = [e for e in factorial(two, ("pos", "window"), 0.01).interactions]
    assert np.isnan(unknown[0].estimate) and unknown[0].interval is None


def test_a_cell_in_which_every_run_diverged_is_no_missing_cell() -> None:
    frame = grid()
    frame.loc[35:39, "value"] = np.inf  # rope, sliding, mha
    result = factorial(frame, FACTORS, 0.01)
    assert {(e.verdict, e.diverged) for e in result.main} == {(Verdict.UNDECIDED, 5)}
    assert {e.averaged for e in result.main} == {(3, 4)}
    under = {e.at[0]: (e.verdict, e.diverged) for e in result.simple if e.changes[0].factor == "pos"}
    assert under["window", "full"] == (Verdict.BETTER, 0) and under["window", "sliding"] == (Verdict.UNDECIDED, 5)
    sentence = factorial_sentences(result)[0]
    assert "(undecided: 5 runs diverged) under sliding" in sentence and "lowers the loss" in sentence
    two = factorial(frame.query("attention == 'mha'"), ("pos", "window"), 0.01)
    assert factorial_sentences(two)[0].endswith("the interaction is unknown: 5 runs diverged")


def test_a_diverged_run_leaves_its_contrasts_undecided_and_mistakes_are_named() -> None:
    frame = grid()
    frame.loc[0, "value"] = np.nan  # learned, full, gqa
    result = factorial(frame, FACTORS, 0.01)
    assert {e.verdict for e in result.main} == {Verdict.UNDECIDED} and result.main[0].diverged == 1
    with pytest.raises(GptxError, match="no column 'norm'"):
        factorial(frame, ("pos", "norm"), 0.01)
    with pytest.raises(GptxError, match="pos has no level 'alibi'; it has learned, rope"):
        factorial(frame, FACTORS, 0.01, references={"pos": "alibi"})
