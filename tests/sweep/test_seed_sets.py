"""Seeds that choose something are other seeds than those that are reported."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptx.config.compose import compose
from gptx.config.overrides import key_of
from gptx.errors import ConfigError
from gptx.sweep.plan.final_runs import FinalSeeds
from gptx.sweep.plan.seed_sets import FIRST_OTHER, other_seeds, replace_seeds, seed_list, seed_sets, with_seed_sets

SEED = st.integers(FIRST_OTHER - 3, FIRST_OTHER + 3)
GRID = [
    ["attention=mha", "seed=0"],
    ["attention=mha", "seed=1"],
    ["attention=gqa", "seed=0"],
    ["attention=gqa", "seed=1"],
]


@given(st.lists(SEED, min_size=1, unique=True), st.integers(1, 5))
def test_other_seeds_are_never_those_of_the_grid(seeds: list[int], number: int) -> None:
    sets = seed_sets([["attention=mha", f"seed={seed}"] for seed in seeds], 0)
    assert sets == [(f"seed={seed}",) for seed in seeds]
    others = other_seeds(sets, number)
    assert len(set(others)) == number and not set(others) & set(sets)


def test_seeds_of_a_grid() -> None:
    assert seed_sets(GRID, 7) == [("seed=0",), ("seed=1",)]
    assert seed_sets([["attention=mha"]], 7) == [("seed=7",)]
    assert seed_sets([["data_seed=1"], ["data_seed=2"]], 7) == [("seed=7", "data_seed=1"), ("seed=7", "data_seed=2")]
    assert seed_list(seed_sets(GRID, 0)) == "seeds 0, 1" and seed_list([("seed=1000",)]) == "seed 1000"


def test_data_seed_stays_only_if_it_has_one_value() -> None:
    assert other_seeds([("seed=0", "data_seed=1"), ("seed=1", "data_seed=1")], 1) == [("seed=1000", "data_seed=1")]
    assert other_seeds([("seed=0", "data_seed=1"), ("seed=0", "data_seed=2")], 1) == [("seed=1000",)]


def test_every_arm_gets_the_other_seeds_once() -> None:
    assert with_seed_sets(GRID, [("seed=1000",)]) == [["attention=mha", "seed=1000"], ["attention=gqa", "seed=1000"]]
    assert replace_seeds(["seed=0", "++data_seed=1", "optim.lr=1e-3"], ("seed=5",)) == ["optim.lr=1e-3", "seed=5"]


def final(*of_sweep: str, grid: list[list[str]] = GRID) -> FinalSeeds:
    return FinalSeeds.of(grid, compose(list(of_sweep)), of_sweep)


def test_rates_are_chosen_with_other_seeds_than_those_of_the_comparison() -> None:
    found = final("sweep.lr=[1e-3,3e-3]", "sweep.lr_seeds=2")
    assert found.tuning == (("seed=1000",), ("seed=1001",)) and found.sets == (("seed=0",), ("seed=1",))
    assert "tries 2 learning rates with seeds 1000, 1001" in found.note and "best with seeds 0, 1;" in found.note


def test_winners_train_again_with_fresh_seeds() -> None:
    assert final("sweep.halving=true").sets == (("seed=1000",), ("seed=1001",), ("seed=1002",))
    assert final("sweep.halving=true", "sweep.fresh_seeds=0") == FinalSeeds()
    assert final("sweep.halving=true", grid=GRID[:2]) == FinalSeeds(), "one arm: nothing is chosen"
    assert final() == FinalSeeds()


@pytest.mark.parametrize(
    ("of_sweep", "message"),
    [
        (["sweep.lr_seeds=2"], "sweep.lr_seeds is an option of sweep.lr; add that or remove it"),
        (["sweep.fresh_seeds=2"], "sweep.fresh_seeds is an option of sweep.halving; add that or remove it"),
        (["sweep.lr=[1e-3,3e-3]", "sweep.halving=true"], "sweep.lr and sweep.halving both choose what is trained"),
    ],
)
def test_contradicting_options_are_rejected(of_sweep: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        final(*of_sweep)


def test_keys_of_overrides_are_compared_not_texts() -> None:
    assert [key_of(one) for one in replace_seeds(["+seed=0", "model.seedling=1"], ())] == ["model.seedling"]
