"""Equal budgets (match), learning rates for every arm (sweep.lr)."""

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from helpers_model import one_thread, options  # noqa: F401 - a fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

import gptx
from gptx import variants as gptx_variants
from gptx.config.identity import identity, run_name
from gptx.errors import ConfigError
from gptx.hardware.device import Machine
from gptx.model.cost import flops_per_token, n_params
from gptx.sweep.plan.matching import Matched, Unmatched, match_budgets
from gptx.sweep.plan.width_search import nearest_first

KINDS = {"params": n_params, "flops": flops_per_token}
every_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def config(*words: str) -> DictConfig:
    return gptx.compose(["device=cpu", "precision=fp32", *words])


def price(kind: str, cfg: DictConfig) -> int:
    import torch

    with torch.device("meta"):
        return KINDS[kind](gptx.build(cfg))


def solved(*cfgs: DictConfig) -> list[Matched | Unmatched]:
    return match_budgets(cfgs, cfgs[0])


def fit(words: Sequence[str]) -> Matched:
    [found] = solved(config(*words))
    assert isinstance(found, Matched), found
    return found


def refusal(words: Sequence[str]) -> str:
    [found] = solved(config(*words))
    assert isinstance(found, Unmatched) and "\n" not in found.reason
    return found.reason


ONE_LAYER = ("model.n_layer=1",)  # as good as four


def exchanged(axis: str, option: str, *words: str) -> DictConfig:
    """The same as composing it, and faster."""
    return gptx_variants.exchanged(config(*words), {axis: option})


@every_kind
@pytest.mark.parametrize(("by", "axes"), [("ffn", ("attention", "ffn", "pos")), ("d_model", ("attention", "ffn"))])
def test_every_variant_gets_the_budget_of_the_first(kind: str, by: str, axes: tuple[str, ...]) -> None:
    arms = [("attention", "mha"), *((axis, option) for axis in axes for option in options(axis))]
    fits = solved(*(exchanged(*arm, *ONE_LAYER, f"match={kind}", f"match.by={by}") for arm in arms))
    for (axis, option), found in zip(arms, fits, strict=True):
        assert isinstance(found, Matched), f"{option}: {found}"
        assert abs(found.relative_difference) <= 0.01 and found.target == price(kind, config(*ONE_LAYER))
        if found.overrides:
            plain = config(f"{axis}={option}", *ONE_LAYER, *found.overrides)
            assert price(kind, plain) == found.size, "a matched cell is a plain command"
    assert isinstance(fits[0], Matched) and fits[0].overrides == ()


def test_a_note_says_what_was_solved_and_what_is_left() -> None:
    first, second, third = solved(*(config("match=params", f"attention={a}") for a in ("mha", "mqa", "sink")))
    assert isinstance(first, Matched) and first.note == "the target: 820,480 parameters"
    assert isinstance(second, Matched) and second.overrides == ("ffn.ratio=4.75",)
    assert second.note == "ffn.ratio=4.75 (width 608): 820,480 parameters, +0.00 %"
    assert isinstance(third, Matched) and third.note == "unchanged: 820,496 parameters, +0.00 %"


@pytest.mark.parametrize("key", ["seed", "optim.lr"])
def test_seeds_and_rates_are_one_arm_and_the_first_stays_as_it_is(key: str) -> None:
    cfgs = [config("match=params", f"attention={a}", f"{key}={s}") for a in ("gqa", "mha") for s in (1, 2)]
    fits = solved(*cfgs)
    assert fits[0] is fits[1] and fits[2] is fits[3]
    assert isinstance(fits[0], Matched) and fits[0].overrides == () and fits[0].target == price("params", cfgs[0])


def test_finer_steps_are_taken_only_where_they_are_needed() -> None:
    [word] = fit(["match=params", "match.target=1e6", "ffn=swiglu"]).overrides
    assert float(word.removeprefix("ffn.ratio=")) * 128 % 8 == 0
    words = fit(["match=params", "match.target=820480", "ffn=moe"]).overrides
    assert "ffn.multiple_of=1" in words


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


@pytest.mark.slow
@settings(max_examples=8)
@given(st.fixed_dictionaries(SIZES))
def test_what_is_refused_has_no_better_width(drawn: dict[str, Any]) -> None:
    words, kind = sized(**drawn), drawn["kind"]
    target = round(price(kind, config(*words)) * drawn["factor"])
    asked = [*words, f"match={kind}", f"match.target={target}", f"match.tolerance={drawn['tolerance']}"]
    [found] = solved(config(*asked))
    cfg = config(*words).copy()
    if isinstance(found, Matched):
        assert abs(found.relative_difference) <= drawn["tolerance"]
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
    assert best > drawn["tolerance"] * target, "there is a width that would do"
    nearest = int(found.reason.partition("match.target=")[2].split()[0])
    assert abs(nearest - target) == best, "the nearest that it can have"


@settings(max_examples=200)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 60), st.integers(-5, 400))
def test_numbers_come_nearest_first(steps: list[int], own: int, target: int) -> None:
    """Whatever rises: straight, bent, in steps; beyond its end nothing can be built."""
    prices = [-math.inf, *itertools.accumulate(steps)]

    def price(k: int) -> float:
        return -math.inf if k < 1 else prices[k] if k < len(prices) else math.inf

    own = min(own, len(steps))
    found = nearest_first(price, own, target)
    first = list(itertools.islice(found, 3))
    gaps = sorted(abs(value - target) for value in [*prices[1:], math.inf, math.inf, math.inf])
    assert [abs(price(k) - target) for k in first] == gaps[:3]


def test_few_models_are_built() -> None:
    asked = []
    straight = nearest_first(lambda k: asked.append(k) or (1000 * k + 7 if k else -math.inf), 512, 777_777)  # type: ignore[func-returns-value]
    assert next(straight) == 778 and len(set(asked)) <= 8


@every_kind
def test_what_cannot_be_matched_is_told_what_would_do(kind: str) -> None:
    words = ["model.n_layer=1", "model.d_model=32", f"match={kind}", "ffn=moe", "match.tolerance=0.001"]
    own = price(kind, config(*words[:2], "ffn=moe"))
    message = refusal([*words, f"match.target={own * 0.83}"])
    assert f"this arm has {own:,} " in message and "the nearest possible size is" in message
    ways = [word for word in message.rpartition("; use ")[2].split() if word.startswith("match.")]
    assert len(ways) >= 2
    for way in ways:
        fit([*words, f"match.target={own * 0.83}", way])


def test_a_target_below_what_the_rest_of_the_model_has() -> None:
    message = refusal(["match=params", "match.target=100000"])
    assert "(+" in message and "width 1)" in message and "match.by=d_model or " in message
    assert fit(["match=params", "match.target=100000", "match.by=d_model"]).overrides[0].startswith("model.d_model=4")


def test_a_width_that_tp_can_cut() -> None:
    words = ["match=params", "match.target=820480", "strategy=tp", "strategy.nproc=4", "pos=learned"]
    found = fit(words)
    ratio = float(found.overrides[0].partition("=")[2])
    assert round(ratio * 128) % 4 == 0 and abs(found.relative_difference) <= 0.01
    assert "splits heads and hidden units" in refusal([*words, "match.target=819000", "match.tolerance=0.0008"])


def test_arms_for_a_cluster_of_gpus() -> None:
    """Four on a node, which this machine need not have: tp cuts widths by so many."""
    words = ["match=params", "match.target=820480", "device=cuda", "strategy=tp", "pos=learned"]
    [found] = match_budgets([gptx.compose(words)], gptx.compose(words), Machine("cuda", per_node=4, cores=2))
    assert isinstance(found, Matched), found
    assert round(float(found.overrides[0].partition("=")[2]) * 128) % 4 == 0


def test_an_arm_that_cannot_be_built_is_refused_alone() -> None:
    good, bad = config("match=params"), config("match=params", "model.n_head=3")
    fits = solved(good, bad)
    assert isinstance(fits[0], Matched) and isinstance(fits[1], Unmatched) and "n_head=3" in fits[1].reason
    fits = solved(bad, good)
    assert isinstance(fits[0], Unmatched) and isinstance(fits[1], Unmatched) and "set match.target" in fits[1].reason


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([["match.by=depth"]], "match.by=depth: expected ffn (change its width) or d_model"),
        ([["match.target=-1"]], "match.target=-1: expected a number of parameters"),
        ([["match.tolerance=1"]], "match.tolerance=1: expected a fraction below 1"),
        ([["ffn.ratio=2"], ["ffn.ratio=4"]], "changes ffn.ratio, ffn.multiple_of; remove them from the sweep"),
        ([["match.by=d_model"], ["match.by=d_model", "model.d_model=64"]], "changes model.d_model"),
    ],
)
def test_wrong_keys(words: list[list[str]], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        solved(*(config("match=params", *more) for more in words))
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_sizes_may_be_swept_where_another_key_is_solved() -> None:
    small, large = solved(*(config("match=params", "match.tolerance=0.9", f"model.d_model={d}") for d in (128, 120)))
    assert isinstance(small, Matched) and isinstance(large, Matched) and large.overrides


def test_a_match_is_no_part_of_a_run() -> None:
    plain, asked = config(), config("match=params", "match.target=5")
    assert identity(plain, "text") == identity(asked, "text") and run_name(plain) == run_name(asked)
