"""The level, coverage and power that docs/statistics.md states, by simulation."""

import numpy as np
import pytest
from command import ROOT

from benchmarks.statistics import SCENARIOS, Rates, main, simulate
from gptx.statistics.block_model import BlockModel
from gptx.statistics.contrast_intervals import ContrastFamily

EQUAL, HEAVY, MISSING, ARM_2, ARM_3, BASELINE_2, BASELINE_3 = SCENARIOS
EXCESS = {EQUAL: 0.0, HEAVY: 0.0, MISSING: 0.0, ARM_2: 0.01, ARM_3: 0.01, BASELINE_2: 0.01, BASELINE_3: 0.01}
"""How much the level may be exceeded: docs/statistics.md says so of arms that differ in spread, with few seeds."""


def check(rates: Rates, excess: float = 0.0) -> None:
    limit = 0.05 + excess + 2 * rates.simulation_error
    assert rates.false_positives <= limit and rates.coverage >= 1 - limit
    assert rates.false_equivalences <= 0.025 + 2 * rates.simulation_error


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_few_simulations_keep_the_level(scenario) -> None:  # type: ignore[no-untyped-def]
    check(simulate(scenario, 5, 400), EXCESS[scenario])


def test_power_is_as_predicted_for_equal_spread() -> None:
    for seeds in (3, 5, 10):
        rates = simulate(EQUAL, seeds, 2000, rng_seed=1)
        assert rates.power == pytest.approx(rates.predicted, abs=0.05)


@pytest.mark.parametrize("arms", [3, 4])
@pytest.mark.parametrize("row", [0, -1], ids=["baseline", "arm"])
@pytest.mark.parametrize("ratio", [3, 10, 100])
def test_one_arm_or_the_baseline_may_vary_much_more_with_three_seeds(arms: int, row: int, ratio: float) -> None:
    values = np.random.default_rng(5).normal(size=(arms, 3, 4000))
    values[row] *= ratio
    family = ContrastFamily(BlockModel.of_present(np.ones((arms, 3), bool)), np.eye(arms)[1:] - np.eye(arms)[0])
    found = family.intervals(values.reshape(arms * 3, -1))
    assert (np.abs(found.estimates) > found.half_widths).any(axis=0).mean() <= 0.065


@pytest.mark.full
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_simulations_support_the_table(scenario, seeds: int) -> None:  # type: ignore[no-untyped-def]
    check(simulate(scenario, seeds, 20_000, rng_seed=2), EXCESS[scenario])


@pytest.mark.full
def test_the_table_in_the_docs_is_the_output_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out in (ROOT / "docs" / "statistics.md").read_text()


def test_the_command_prints_a_row_per_scenario_and_number_of_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--simulations", "40", "--seeds", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(SCENARIOS) and lines[2].startswith("| equal spread | 3 | ")
    assert np.all([line.count("|") == 9 for line in lines])
