"""The space and the options of a search, and what is rejected."""

from dataclasses import replace

import optuna
import pytest
from simulated_search import KEYS, LR, space

from gptx.config.compose import compose
from gptx.errors import ConfigError
from gptx.sweep.plan.cells import compose_cells
from gptx.sweep.search.search_sweeper import check_options


@pytest.mark.parametrize(
    ("override", "shown", "examples"),
    [
        ("attention=mha,gqa", "mha, gqa", ["mha", "gqa"]),
        ("attention=choice(mha,gqa,mha)", "mha, gqa", ["mha", "gqa"]),
        ("seed=0,1", "0, 1", ["0", "1"]),
        ("a.b=[1,2],[3]", "[1,2], [3]", ["[1,2]", "[3]"]),
        (LR, "0.0001 to 0.01, log scale", ["0.0001", "0.003367", "0.01"]),
        ("x=interval(0,3)", "0 to 3", ["0.0", "1", "3.0"]),
        ("x=int(interval(1,8))", "1 to 8", ["1", "8"]),
        ("x=tag(log,int(interval(1,8)))", "1 to 8, log scale", ["1", "8"]),
        ("x=range(1,9,2)", "1 to 7, in steps of 2", ["1", "7"]),
        ("x=range(9,1,-2)", "3 to 9, in steps of 2", ["3", "9"]),
        ("x=range(0.5,2.1,0.5)", "0.5 to 2, in steps of 0.5", ["0.5", "2.0"]),
    ],
)
def test_space_is_read_from_the_command_line(override: str, shown: str, examples: list[str]) -> None:
    found = space("pos=rope", override)
    key = override.partition("=")[0]
    assert found.fixed == ["pos=rope"]
    assert str(found) == f"  {key}: {shown}"
    assert [point[1] for point in found.examples()] == [f"{key}={example}" for example in examples]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    [axis] = found.dimensions
    tried = {axis.suggest(study.ask()) for _ in range(20)}
    assert all(len(space(one, "y=1,2").fixed) == 1 for one in tried)  # each has one value
    assert len(tried) > 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["attention=mha", "seed=0"], "nothing to search: expected at least one key with several values, e.g."),
        (["x=interval(2,1)"], "x=interval(2,1): expected a smaller number, then a larger one"),
        (["x=tag(log,interval(0,1))"], "then a larger one, both above 0"),
        (["x=tag(ln,interval(1,2))"], "a search supports only the tag log"),
        (["x=tag(log,choice(1,2))"], "a search supports only the tag log of intervals"),
        (["x=shuffle(1,2)"], "no order to shuffle"),
        (["x=range(3,3)"], "has no values"),
    ],
)
def test_overrides_that_cannot_be_searched(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        space(*overrides)
    assert expected in str(rejected.value) and "\n" not in str(rejected.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"n_trials": 0}, "hydra.sweeper.n_trials=0: expected at least 1"),
        ({"sampler": "nsga2", "startup": 1}, "hydra.sweeper.startup=1: expected at least 2"),
        ({"metrics": ("val_loss_best",)}, "val_loss_best: expected one of val_loss, val_bpb, n_params"),
        ({"metrics": ("val_los",)}, "Did you mean 'val_loss'?"),
        ({"metrics": ()}, "expected at least one, and none twice"),
        ({"metrics": ("val_loss", "val_loss")}, "expected at least one, and none twice"),
        ({"sampler": "grid"}, "hydra.sweeper.sampler=grid: expected one of tpe, nsga2, random"),
        ({"pruner": "hyperband"}, "expected one of none, median, asha"),
        ({"warmup": 5}, "hydra.sweeper.warmup=5 needs a pruner"),
        ({"pruner": "median", "metrics": ("val_loss", "n_params")}, "metrics=[val_loss]"),
        ({"pruner": "asha", "metrics": ("n_params",)}, "or pruner=none"),
    ],
)
def test_wrong_search_options(keys: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        replace(KEYS, **keys).check()  # type: ignore[arg-type]
    assert expected in str(rejected.value) and "\n" not in str(rejected.value)


def test_interval_of_real_numbers_for_an_integer_is_rejected() -> None:
    rejections = [cell.rejection for cell in compose_cells(space("model.n_layer=interval(1,3)").examples())]
    assert any("expected a whole number" in rejection for rejection in rejections)


@pytest.mark.parametrize(
    ("overrides", "searched", "expected"),
    [
        (["match=params"], "attention=mha,gqa", "match is an option of a grid, not of a search"),
        (["sweep.lr=[1e-3,3e-3]"], "attention=mha,gqa", "sweep.lr is an option of a grid, not of a search"),
        (["force=true"], "attention=mha,gqa", "force=true: a search does not repeat finished runs"),
        (["runtime.until=10"], "attention=mha,gqa", "the runs of a search train to the end"),
        ([], "trainer.max_steps=10,20", "trainer.max_steps cannot be searched"),
    ],
)
def test_options_that_a_search_rejects(overrides: list[str], searched: str, expected: str) -> None:
    with pytest.raises(ConfigError) as rejected:
        check_options(compose(overrides), replace(KEYS, pruner="median"), space(searched))
    assert expected in str(rejected.value) and "\n" not in str(rejected.value)
