"""Configs composed from cached sets of options equal those that Hydra composes, and values are read as typed."""

import json
from typing import Any

import pytest
from composed import COMPOSITIONS
from helpers_model import options, rejected
from hydra import compose as hydra_compose
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import gptx as api
from gptx.config.axes import axes
from gptx.config.check_types import checked
from gptx.config.compose import compose, compose_plain, initialised
from gptx.config.overrides import conf_dir
from gptx.config.parsing import parsed, readable
from gptx.config.plain_dict import PlainConfig, flat, plain_dict
from gptx.errors import ConfigError

_FOLDER = conf_dir() / "experiment"
STUDIES = sorted(str(path.relative_to(_FOLDER).with_suffix("")) for path in _FOLDER.rglob("*.yaml"))
AXES = [axis.name for axis in axes() if axis.name != "experiment"]

compose_plain((), COMPOSITIONS)  # Hydra loads its plugins here, and not while hypothesis draws


def composed_by_hydra(overrides: list[str]) -> PlainConfig:
    """The config as Hydra composes it from all overrides, without gptx's cache of compositions."""
    with initialised():
        cfg = hydra_compose("config", overrides, return_hydra_config=True)
        choices = {g: c for g, c in cfg.hydra.runtime.choices.items() if c and not g.startswith("hydra")}
        variant = {g: c for g, c in choices.items() if g != "experiment"}
        schema = plain_dict(hydra_compose("config", [f"{group}={choice}" for group, choice in variant.items()]))
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return {**checked(plain_dict(cfg, complete=True), schema), "variant": variant}


@st.composite
def override_sets(draw: st.DrawFn) -> list[str]:
    """Options of some axes, perhaps a study, and values for some keys of these options, in any order."""
    names = draw(st.lists(st.sampled_from(AXES), unique=True, max_size=5))
    chosen = [f"{name}={draw(st.sampled_from(options(name)))}" for name in names]
    if draw(st.booleans()):
        chosen.append(f"experiment={draw(st.sampled_from(STUDIES))}")
    defaults = {key: value for key, value in flat(compose_plain(chosen, COMPOSITIONS)) if settable(key, value)}
    keys = draw(st.lists(st.sampled_from(sorted(defaults)), unique=True, max_size=6))
    given = [f"{key}={draw(values(defaults[key]))}" for key in keys]
    return list(draw(st.permutations([*chosen, *given])))


def settable(key: str, default: Any) -> bool:
    return not (isinstance(default, dict) or key.startswith("variant.") or key.endswith("_target_"))


def values(default: Any) -> st.SearchStrategy[str]:
    """Values of the type of a default, as they are typed."""
    if isinstance(default, bool):
        return st.sampled_from(["true", "false"])
    if isinstance(default, int):
        return st.integers(1, 64).map(str) | st.sampled_from(["${model.n_head}", "1e2"])
    if isinstance(default, float):
        return st.floats(1e-6, 0.9, allow_nan=False).map(str) | st.sampled_from(["1e-3", "${optim.lr}", "1"])
    if isinstance(default, list):
        return st.sampled_from(["[]", "[0.5,0.25]" if default else "[a,'b c']"])
    return st.sampled_from(["x", "'a b'", "${study}", "'é'"])


@settings(max_examples=8)
@given(override_sets())
def test_cached_composition_equals_hydras(overrides: list[str]) -> None:
    equals_hydras(overrides)


@pytest.mark.full
@settings(max_examples=40)
@given(override_sets())
def test_more_cached_compositions_equal_hydras(overrides: list[str]) -> None:
    equals_hydras(overrides)


def equals_hydras(overrides: list[str]) -> None:
    """The same result to the last key, or an error of both."""
    try:
        expected = json.dumps(composed_by_hydra(overrides))
    except Exception:
        rejected(compose, overrides, COMPOSITIONS)
        return
    try:
        found = compose_plain(overrides, COMPOSITIONS)
    except ConfigError as error:
        assert "expected" in str(error)  # out of range, which Hydra does not check
        return
    assert json.dumps(found) == expected
    assert json.dumps(compose_plain(overrides)) == expected  # nothing is left of the sets before


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("study=a·b", "a·b"),
        ("study=x=y", "x=y"),
        ("study=2e10", "2e10"),
        ("study=1_000", "1_000"),
        ("study=true", "true"),
        ("study=a (1)", "a (1)"),
        ("study=it's", "it's"),
        ("study=é\\", "é\\"),
        ("study='a b'", "a b"),
        ("study=[a", "[a"),
        ("study=${model.n_layer}·", "4·"),
    ],
)
def test_text_is_read_as_typed(typed: str, value: str) -> None:
    assert compose([typed], COMPOSITIONS).study == value


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("2024", ["2024"]),
        ("1e3", ["1e3"]),
        ("[01,1e3]", ["01", "1e3"]),
        ("[a, 1_0 ,'b,c',true]", ["a", "1_0", "b,c", "true"]),
        ("[]", []),
        ("a", ["a"]),
    ],
)
def test_names_of_files_are_read_as_typed(typed: str, values: list[str]) -> None:
    assert compose(["data=text", f"data.path={typed}"], COMPOSITIONS).data.path == values


def test_lists_of_numbers_stay_numbers() -> None:
    cfg = compose(["sweep.lr=[1e-3,3e-3]", "optim.betas=[0.8,1e-1]"], COMPOSITIONS)
    assert cfg.sweep.lr == [1e-3, 3e-3] and cfg.optim.betas == [0.8, 0.1]


GRAMMAR = "${}[]()'\",\\\0"
SPACES = ("Cs", "Cc", "Zs", "Zl", "Zp")


@settings(max_examples=100)
@given(st.text(st.characters(exclude_characters=GRAMMAR, exclude_categories=SPACES), min_size=1))
def test_any_text_without_signs_of_the_grammar_is_read_as_typed(text: str) -> None:
    assert compose([f"paths.outputs=/{text}"], COMPOSITIONS).paths.outputs == f"/{text}"


def test_quotes_are_added_where_the_grammar_needs_them() -> None:
    assert readable("optim.lr=1e-3") == "optim.lr=1e-3"
    assert readable("optim.lr=range(1,b)") == "optim.lr=range(1,b)"  # the function reports its argument
    assert readable("data.path=é,b=c,d") == "data.path='é','b=c',d"
    assert readable("data.path=[é,b]") == "data.path=['é',b]"
    assert readable("data.path=[set] 1/a.jsonl") == "data.path='[set] 1/a.jsonl'"
    assert readable("é=1") == "é=1" and parsed("é=1") is None
    assert readable(readable("study=x=y")) == readable("study=x=y")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["placement=16"], "unknown option placement=16. placement is one of: peri, post, pre."),
        (["attention=1"], "unknown option attention=1. attention is one of: "),
        (["model=true"], "unknown option model=true. model is one of: "),
        (["experiment=1.5"], "unknown option experiment=1.5."),
        (["kernel=../model/nano"], "unknown option kernel=../model/nano. kernel is one of: auto, banded"),
        (["kernel=/model/nano"], "unknown option kernel=/model/nano."),
        (["attention=gqa.yaml"], "unknown option attention=gqa.yaml."),
        (["hydra/launcher=3"], "unknown option hydra/launcher=3."),
        (["=3"], "cannot read '=3': expected key=value"),
        (["attention@foo=gqa"], "cannot read 'attention@foo=gqa': expected a key without '@', attention=gqa"),
        (["+window@foo=full"], "cannot read '+window@foo=full': expected a key without '@', +window=full"),
        (["model@=tiny"], "cannot read 'model@=tiny': expected a key without '@', model=tiny"),
        (
            ["attention=gqa", "attention=mha"],
            "attention=gqa and attention=mha: only the last would count; give attention once",
        ),
        (["model.n_head=${nothere}"], "model.n_head=${nothere}: the config has no key nothere"),
        (["study=null"], "study=None: expected text"),
        (["trainer=3"], "trainer=3: expected a group of keys: "),
    ],
)
def test_mistakes_are_one_line(overrides: list[str], line: str) -> None:
    message = rejected(compose, overrides, COMPOSITIONS)
    assert message.startswith(line) and "\n" not in message


def test_python_api_has_the_checks_of_the_command() -> None:
    for overrides, line in (
        (["trainer.max_steps=-5"], "trainer.max_steps=-5: expected at least 1"),
        (["strategy=tp", "attention=mqa"], "strategy=tp splits heads"),
        (["optim.betas=[0.9]"], "optim.betas=[0.9]: expected two numbers, such as [0.9,0.95]"),
        (["attention=gqa", "attention.n_kv_head=3"], "attention.n_kv_head=3"),
        (["strategy=ddp", "strategy.nproc=3"], "trainer.batch_size=32 cannot be split over 3 processes"),
    ):
        assert rejected(api.compose, ["device=cpu", *overrides]).startswith(line)
    assert api.compose(["device=cuda", "strategy=ddp"]).device.type == "cuda"  # composed here, trained elsewhere


def test_composed_config_is_read_only() -> None:
    cfg = api.compose(["device=cpu"])
    with pytest.raises(ConfigError, match=r"unknown key 'trainer.max_stepz'. Did you mean 'trainer.max_steps'\?"):
        cfg.trainer.max_stepz = 12
    with pytest.raises(ConfigError, match=r"trainer.max_steps=-5 would not be checked"):
        cfg["trainer"]["max_steps"] = -5
    with pytest.raises(ConfigError, match="unknown key 'x'"):
        cfg.x = 1
    assert cfg.trainer.max_steps == 800 and "max_stepz" not in cfg.trainer
    assert api.build(cfg).shape.n_layer == 4
