"""match=params and match=flops: every arm of a sweep gets the same budget."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from composed import composed
from helpers_model import options
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

import gptx
from gptx.config.identity import identity, run_name
from gptx.errors import ConfigError
from gptx.hardware.device import Machine
from gptx.model import variants_table
from gptx.model.cost import flops_per_token, n_params
from gptx.sweep.plan import matching
from gptx.sweep.plan.matching import Matched, Unmatched, match_budgets
from gptx.sweep.plan.width_search import nearest_first

KINDS = {"params": n_params, "flops": flops_per_token}
every_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def config(*overrides: str) -> DictConfig:
    return composed("device=cpu", "precision=fp32", *overrides)


def price(kind: str, cfg: DictConfig) -> int:
    import torch

    with torch.device("meta"):
        return KINDS[kind](gptx.build(cfg))


def solved(*cfgs: DictConfig) -> list[Matched | Unmatched]:
    return match_budgets(cfgs, cfgs[0])


def fit(overrides: Sequence[str]) -> Matched:
    [found] = solved(config(*overrides))
    assert isinstance(found, Matched), found
    return found


def reason(overrides: Sequence[str]) -> str:
    [found] = solved(config(*overrides))
    assert isinstance(found, Unmatched) and "\n" not in found.reason
    return found.reason


ONE_LAYER = ("model.n_layer=1",)  # enough to test with


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve without isolated processes, each of which imports torch."""

    def map_here(function: Callable[[Any], Any], items: Sequence[Any], on_failure: Callable[[str], Any]) -> list[Any]:
        found = []
        for item in items:
            try:
                found.append(function(item))
            except ConfigError as error:
                found.append(on_failure(str(error)))
        return found

    monkeypatch.setattr(matching, "map_isolated", map_here)


def exchanged(axis: str, option: str, *overrides: str) -> DictConfig:
    """The composed config, made faster."""
    return variants_table.with_options(config(*overrides), {axis: option})


@pytest.mark.parametrize(
    ("by", "axes", "kind"),
    [
        ("ffn", ("ffn",), "params"),
        ("d_model", ("attention",), "flops"),
        pytest.param("ffn", ("attention", "pos"), "params", marks=pytest.mark.full),
        pytest.param("ffn", ("attention", "ffn", "pos"), "flops", marks=pytest.mark.full),
        pytest.param("d_model", ("attention", "ffn"), "params", marks=pytest.mark.full),
        pytest.param("d_model", ("ffn",), "flops", marks=pytest.mark.full),
    ],
)
def test_every_variant_gets_the_budget_of_the_first(kind: str, by: str, axes: tuple[str, ...]) -> None:
    arms = [("attention", "mha"), *((axis, option) for axis in axes for option in options(axis))]
    fits = solved(*(exchanged(*arm, *ONE_LAYER, f"match={kind}", f"match.by={by}") for arm in arms))
    for (axis, option), found in zip(arms, fits, strict=True):
        assert isinstance(found, Matched), f"{option}: {found}"
        assert abs(found.size / found.target - 1) <= 0.01 and found.target == price(kind, config(*ONE_LAYER))
        if found.overrides:
            plain = config(f"{axis}={option}", *ONE_LAYER, *found.overrides)
            assert price(kind, plain) == found.size, "the overrides alone do not give the size"
    assert isinstance(fits[0], Matched) and fits[0].overrides == ()


def test_note_names_changed_keys_and_difference() -> None:
    first, second, third = solved(*(config("match=params", f"attention={a}") for a in ("mha", "mqa", "sink")))
    assert isinstance(first, Matched) and first.note == "the target: 820,480 parameters"
    assert isinstance(second, Matched) and second.overrides == ("ffn.ratio=4.75",)
    assert second.note == "ffn.ratio=4.75 (width 608): 820,480 parameters, +0.00 %"
    assert isinstance(third, Matched) and third.note == "unchanged: 820,496 parameters, +0.00 %"


@pytest.mark.parametrize("key", ["seed", "optim.lr"])
def test_seeds_and_rates_are_one_arm_and_first_arm_is_unchanged(key: str) -> None:
    cfgs = [config("match=params", f"attention={a}", f"{key}={s}") for a in ("gqa", "mha") for s in (1, 2)]
    fits = solved(*cfgs)
    assert fits[0] is fits[1] and fits[2] is fits[3]
    assert isinstance(fits[0], Matched) and fits[0].overrides == () and fits[0].target == price("params", cfgs[0])


def test_multiple_of_is_lowered_only_if_needed() -> None:
    [override] = fit(["match=params", "match.target=1e6", "ffn=swiglu"]).overrides
    assert float(override.removeprefix("ffn.ratio=")) * 128 % 8 == 0
    overrides = fit(["match=params", "match.target=820480", "ffn=moe"]).overrides
    assert "ffn.multiple_of=1" in overrides


SIZES = {
    "n_layer": st.integers(1, 2),
    "n_head": st.sampled_from([1, 2, 4]),
    "head_dim": st.sampled_from([8, 12]),
    "ffn": st.sampled_from(["gelu", "swiglu", "moe"]),
    "attention": st.sampled_from(["mha", "mqa", "mla"]),
    "factor": st.floats(0.3, 2),
    "kind": st.sampled_from(sorted(KINDS)),
    "tolerance": st.sampled_from([0.001, 0.01, 0.1]),
}


def sized(n_layer: int, n_head: int, head_dim: int, ffn: str, attention: str, **_: Any) -> list[str]:
    sizes = {"n_layer": n_layer, "n_head": n_head, "d_model": n_head * head_dim, "context": 16}
    return [f"ffn={ffn}", f"attention={attention}", *(f"model.{key}={value}" for key, value in sizes.items())]


@pytest.mark.full
@settings(max_examples=8)
@given(st.fixed_dictionaries(SIZES))
def test_unmatched_arm_has_no_better_width(drawn: dict[str, Any]) -> None:
    overrides, kind = sized(**drawn), drawn["kind"]
    target = round(price(kind, config(*overrides)) * drawn["factor"])
    asked = [*overrides, f"match={kind}", f"match.target={target}", f"match.tolerance={drawn['tolerance']}"]
    [found] = solved(config(*asked))
    cfg = config(*overrides).copy()
    if isinstance(found, Matched):
        assert abs(found.size / found.target - 1) <= drawn["tolerance"]
        assert fit([*asked, *found.overrides]).overrides == (), "matched already"
        return
    cfg.ffn.multiple_of = 1
    if drawn["ffn"] == "gelu":
        del cfg.ffn["multiple_of"]
    best, value, width = math.inf, 0, 0
    while value < target:
        width += 1
        cfg.ffn.ratio = width / cfg.model.d_model
        value = price(kind, cfg)
        best = min(best, abs(value - target))
    assert best > drawn["tolerance"] * target, "there is a width within the tolerance"
    nearest = int(found.reason.partition("match.target=")[2].split()[0])
    assert abs(nearest - target) == best, "not the nearest possible size"


@settings(max_examples=200)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 60), st.integers(-5, 400))
def test_nearest_first_order(steps: list[int], own: int, target: int) -> None:
    """For any rising function, with steps and bends; beyond its end no model can be built."""
    prices = [-math.inf, *itertools.accumulate(steps)]

    def price(k: int) -> float:
        return -math.inf if k < 1 else prices[k] if k < len(prices) else math.inf

    own = min(own, len(steps))
    found = nearest_first(price, own, target)
    first = list(itertools.islice(found, 3))
    gaps = sorted(abs(value - target) for value in [*prices[1:], math.inf, math.inf, math.inf])
    assert [abs(price(k) - target) for k in first] == gaps[:3]


def test_few_models_are_measured() -> None:
    asked = []
    straight = nearest_first(lambda k: asked.append(k) or (1000 * k + 7 if k else -math.inf), 512, 777_777)  # type: ignore[func-returns-value]
    assert next(straight) == 778 and len(set(asked)) <= 8


@every_kind
def test_unmatched_arm_gets_settings_that_work(kind: str) -> None:
    overrides = ["model.n_layer=1", "model.d_model=32", f"match={kind}", "ffn=moe", "match.tolerance=0.001"]
    own = price(kind, config(*overrides[:2], "ffn=moe"))
    message = reason([*overrides, f"match.target={own * 0.83}"])
    assert f"this arm has {own:,} " in message and "the nearest possible size is" in message
    ways = [part for part in message.rpartition("; use ")[2].split() if part.startswith("match.")]
    assert len(ways) >= 2
    for way in ways:
        fit([*overrides, f"match.target={own * 0.83}", way])


def test_target_below_the_size_without_ffn() -> None:
    message = reason(["match=params", "match.target=100000"])
    assert "(+" in message and "width 1)" in message and "match.by=d_model or " in message
    assert fit(["match=params", "match.target=100000", "match.by=d_model"]).overrides[0].startswith("model.d_model=4")


def test_width_is_divisible_for_tp() -> None:
    overrides = ["match=params", "match.target=820480", "strategy=tp", "strategy.nproc=4", "pos=learned"]
    found = fit(overrides)
    ratio = float(found.overrides[0].partition("=")[2])
    assert round(ratio * 128) % 4 == 0 and abs(found.size / found.target - 1) <= 0.01
    assert "splits heads and hidden units" in reason([*overrides, "match.target=819000", "match.tolerance=0.0008"])


def test_width_is_divisible_for_tp_on_another_machine() -> None:
    """Four GPUs per node, which this machine need not have."""
    overrides = ["match=params", "match.target=820480", "device=cuda", "strategy=tp", "pos=learned"]
    [found] = match_budgets([composed(*overrides)], composed(*overrides), Machine("cuda", per_node=4, cores=2))
    assert isinstance(found, Matched), found
    assert round(float(found.overrides[0].partition("=")[2]) * 128) % 4 == 0


def test_only_the_arm_that_cannot_be_built_is_rejected() -> None:
    good, bad = config("match=params"), config("match=params", "model.n_head=3")
    fits = solved(good, bad)
    assert isinstance(fits[0], Matched) and isinstance(fits[1], Unmatched) and "n_head=3" in fits[1].reason
    fits = solved(bad, good)
    assert isinstance(fits[0], Unmatched) and isinstance(fits[1], Unmatched) and "set match.target" in fits[1].reason


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ([["match.by=depth"]], "match.by=depth: expected ffn (change its width) or d_model"),
        ([["match.target=-1"]], "match.target=-1: expected a number of parameters"),
        ([["match.tolerance=1"]], "match.tolerance=1: expected a fraction below 1"),
        ([["ffn.ratio=2"], ["ffn.ratio=4"]], "changes ffn.ratio, ffn.multiple_of; remove them from the sweep"),
        ([["match.by=d_model"], ["match.by=d_model", "model.d_model=64"]], "changes model.d_model"),
    ],
)
def test_wrong_keys_of_match(overrides: list[list[str]], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        solved(*(config("match=params", *more) for more in overrides))
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_d_model_may_vary_if_the_ffn_is_changed() -> None:
    small, large = solved(*(config("match=params", "match.tolerance=0.9", f"model.d_model={d}") for d in (128, 120)))
    assert isinstance(small, Matched) and isinstance(large, Matched) and large.overrides


def test_match_is_not_part_of_the_identity() -> None:
    plain, asked = config(), config("match=params", "match.target=5")
    assert identity(plain, "text") == identity(asked, "text") and run_name(plain) == run_name(asked)
