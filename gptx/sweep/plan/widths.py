"""Which width gives a model a wanted number of parameters or FLOPs.

Models are built on the meta device and measured; no formula stands for them. What rises with a width is searched by
interpolation and halving, a handful of models an arm.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from gptx.config import instantiate
from gptx.config.compose import plain_dict
from gptx.data import from_config
from gptx.errors import ConfigError, GptxError

if TYPE_CHECKING:
    from gptx.hardware.device import Machine
    from gptx.model.gpt import GPT

UNITS = {"params": "parameters", "flops": "FLOPs a token"}
Keys = dict[str, Any]  # dotted keys of a config, and values for them


@dataclass(frozen=True)
class Goal:
    """The keys of `match`; ``kind``: the name of its option; ``there``: the machine that the runs are for, where that
    is not this one."""

    kind: str
    target: float
    by: str
    tolerance: float
    there: "Machine | None" = None

    def price(self, cfg: DictConfig) -> int:
        """Of the model of a config, in the goal's unit.

        Raises:
            ConfigError: there is no such model.
        """
        from gptx.model.cost import flops_per_token, n_params

        return (n_params if self.kind == "params" else flops_per_token)(_model(cfg, self.there))

    def amount(self, value: float) -> str:
        return f"{value:,.0f} {UNITS[self.kind]}"

    def off(self, value: float) -> str:
        return f"{100 * (value / self.target - 1):+.2f} %"

    def holds(self, value: float) -> bool:
        return abs(value - self.target) <= self.tolerance * self.target


@dataclass(frozen=True)
class Try:
    """The nearest that one way leads to: what it sets, its price, and why it will not do, if so."""

    keys: Keys
    value: float
    refusal: str


def attempt(cfg: DictConfig, goal: Goal) -> Try:
    """The first way that ends within the tolerance; a refusal says what the nearest of all would be."""
    own, tries = goal.price(cfg), []
    for one in _ways(cfg, goal):
        if not one.refusal:
            return one
        tries.append(one)
    nearest = min(tries, key=lambda one: abs(one.value - goal.target))
    return replace(nearest, refusal=_why(cfg, goal, own, nearest))


def _ways(cfg: DictConfig, goal: Goal) -> Iterator[Try]:
    keys: Keys = {}
    if goal.by == "d_model":
        step = 2 * cfg.model.n_head  # head_dim is even
        knob = _Knob(max(1, round(cfg.model.d_model / step)), lambda k: {"model.d_model": k * step})
        yield (found := _turn(cfg, goal, knob, {}))
        keys = found.keys if math.isfinite(found.value) else {}
    if "ratio" in cfg.ffn:
        rounded = cfg.ffn.get("multiple_of", 1)
        yield _turn(cfg, goal, _ffn(_with(cfg, keys), rounded), keys)
        if rounded > 1:
            yield _turn(cfg, goal, _ffn(_with(cfg, keys), 1), {**keys, "ffn.multiple_of": 1})
    elif goal.by == "ffn":
        raise ConfigError(f"ffn={cfg.variant.ffn} has no key ratio to solve: match.by=d_model or another ffn would do")


@dataclass(frozen=True)
class _Knob:
    """Something that is ``own`` steps wide, 1 or more, and dearer the wider; ``keys`` make it so wide in a config."""

    own: int
    keys: Callable[[int], Keys]


def _ffn(cfg: DictConfig, step: int) -> _Knob:
    """The hidden width. As it is, it needs no word: several ratios round to it."""
    width = cfg.model.d_model
    own = max(1, round(width * cfg.ffn.ratio / step))
    return _Knob(own, lambda k: {} if k == own else {"ffn.ratio": k * step / width})


def _turn(cfg: DictConfig, goal: Goal, knob: _Knob, keys: Keys) -> Try:
    """The nearest within the tolerance that the strategy takes too (tp cuts widths), or else the nearest of all."""

    @cache
    def price(k: int) -> float:
        try:
            return goal.price(_with(cfg, keys | knob.keys(k))) if k > 0 else -math.inf
        except ConfigError:  # too small or too large for a part
            return math.inf if k > knob.own else -math.inf

    nearest: Try | None = None
    for k in outward(price, knob.own, goal.target):
        one = Try(keys | knob.keys(k), price(k), "beyond the tolerance")
        if not goal.holds(one.value):
            return nearest or one
        if not (refusal := _untaken(_with(cfg, one.keys), goal.there)):
            return replace(one, refusal="")
        nearest = nearest or replace(one, refusal=refusal)
    raise AssertionError("there is always another width")


def outward(price: Callable[[int], float], own: int, target: float) -> Iterator[int]:
    """The numbers from 1 on whose price is nearest to the target, the nearest first. ``price`` rises, from -inf at 0,
    and is asked for as little as can be, from ``own`` on."""
    low, high = 0, own
    while price(high) < target:
        low, high = high, 2 * high
    halve = False
    while high - low > 1:
        below, above, middle = price(low), price(high), (low + high) // 2
        if not halve and math.isfinite(above - below):
            middle = low + int((target - below) / (above - below) * (high - low))
            middle = min(max(middle, low + 1), high - 1)
        low, high = (middle, high) if price(middle) < target else (low, middle)
        halve = not halve
    while True:
        if (target - price(low), low != own) <= (price(high) - target, high != own):
            yield low
            low -= 1
        else:
            yield high
            high += 1


def _with(cfg: DictConfig, keys: Keys) -> DictConfig:
    changed = cfg.copy()
    for key, value in keys.items():
        OmegaConf.update(changed, key, value)
    return changed


def _model(cfg: DictConfig, there: "Machine | None") -> "GPT":
    import torch

    from gptx.hardware.device import pick
    from gptx.model.build import build

    words = _vocabulary(json.dumps([plain_dict(cfg[key]) for key in ("data", "tokenizer", "paths")]))
    with torch.device("meta"):
        return build(cfg, words, pick(cfg.device.type, there))


@cache
def _vocabulary(groups: str) -> int:
    """The size of a tokenizer's: one that is fitted reads the text for it."""
    data, tokenizer, paths = json.loads(groups)
    return from_config.tokenizer(OmegaConf.create({"data": data, "tokenizer": tokenizer, "paths": paths})).n_vocab


def _untaken(cfg: DictConfig, there: "Machine | None") -> str:
    """Why the strategy cannot spread this model, or nothing."""
    from gptx.hardware.device import pick
    from gptx.strategy.batch_plan import BatchPlan

    try:
        strategy = instantiate.part(cfg.strategy)
        processes = strategy.processes(pick(cfg.device.type, there), 0, there and there.per_node)
        slices = strategy.rows(processes)
        strategy.check(_model(cfg, there), processes, BatchPlan.of(cfg, slices, processes // slices))
    except GptxError as error:
        return str(error)
    return ""


def named(cfg: DictConfig, keys: Keys) -> str:
    """``ffn.ratio=4.18 (width 535)``, for a reader."""
    words = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in keys.items()]
    width = _with(cfg, keys).model.d_model * keys.get("ffn.ratio", 0.0)
    return " ".join(words) + (f" (width {width:.0f})" if width else "")


def _why(cfg: DictConfig, goal: Goal, own: int, nearest: Try) -> str:
    """What the arm has, the nearest that it can have, and what would work."""
    said = f"match={goal.kind} match.by={goal.by}: it has {goal.amount(own)}, the target is {goal.target:,.0f}, "
    if goal.holds(nearest.value):
        return f"{said}and with {named(cfg, nearest.keys)} {nearest.refusal}"
    share = math.ceil(1000 * abs(nearest.value / goal.target - 1)) / 1000
    ways = [f"match.tolerance={share:g}"] if share < 1 else []
    if goal.by == "ffn" and not attempt(cfg, replace(goal, by="d_model")).refusal:
        ways.insert(0, "match.by=d_model")
    return (
        f"{said}the nearest is {nearest.value:,.0f} ({goal.off(nearest.value)}, with {named(cfg, nearest.keys)}): "
        f"{' or '.join([*ways, f'match.target={nearest.value:.0f}'])} would do"
    )
