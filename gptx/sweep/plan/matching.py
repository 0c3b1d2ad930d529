"""`match=params` and `match=flops`: every arm of a sweep gets the same budget, by its ffn's width or by d_model.

What was found are ordinary words (``ffn.ratio=4.1796875``), so that a matched cell is a plain command.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from gptx.config.compose import SEEDS, flat, plain_dict
from gptx.errors import ConfigError
from gptx.sweep.execute.isolated import each
from gptx.sweep.plan import rates
from gptx.sweep.plan.widths import UNITS, Goal, attempt, named

if TYPE_CHECKING:
    from gptx.hardware.device import Machine

SOLVED = {"ffn": ("ffn.ratio", "ffn.multiple_of"), "d_model": ("model.d_model", "ffn.ratio", "ffn.multiple_of")}


@dataclass(frozen=True)
class Fit:
    """What gives an arm the budget.

    Attributes:
        words: to be added to its overrides; none where it is as near as it can be.
        value, target: parameters, or FLOPs a token.
        note: the same for a reader: "ffn.ratio=4.18 (width 535): 820,992 parameters, +0.06 %".
    """

    words: tuple[str, ...]
    value: int
    target: float
    note: str

    @property
    def residual(self) -> float:
        return self.value / self.target - 1


def solve(cfgs: Sequence[DictConfig], options: DictConfig, there: "Machine | None" = None) -> list[Fit | str]:
    """For each config of a sweep what gives it the budget, or in one line why nothing does. Those that differ in their
    seeds and rates only are solved once.

    Args:
        options: a config that says how to match.
        there: the machine that the runs are for, where that is not this one.

    Raises:
        ConfigError: the keys of `match` are wrong, or the sweep varies what they solve.
    """
    goal = replace(_goal(cfgs, options.variant.match, options.match), there=there)
    found: dict[str, Fit | str] = {}
    if not goal.target:
        [first] = each(_price, [(plain_dict(cfgs[0]), goal)], lost=str)
        if isinstance(first, str):
            lost = f"match.target=0 is what the first combination has, which cannot be ({first}): set match.target"
            return [first if _arm(cfg) == _arm(cfgs[0]) else lost for cfg in cfgs]
        goal = replace(goal, target=first)
        found[_arm(cfgs[0])] = Fit((), first, first, f"the target: {goal.amount(first)}")
    todo = {_arm(cfg): (plain_dict(cfg), goal) for cfg in cfgs if _arm(cfg) not in found}
    found |= zip(todo, each(_fit, list(todo.values()), lost=str), strict=True)
    return [found[_arm(cfg)] for cfg in cfgs]


def _price(given: tuple[dict[str, Any], Goal]) -> int:
    return given[1].price(OmegaConf.create(given[0]))


def _fit(given: tuple[dict[str, Any], Goal]) -> Fit:
    cfg, goal = OmegaConf.create(given[0]), given[1]
    found = attempt(cfg, goal)
    if found.refusal:
        raise ConfigError(found.refusal)
    keys = {key: value for key, value in found.keys.items() if OmegaConf.select(cfg, key) != value}
    note = f"{named(cfg, keys) or 'as it is'}: {goal.amount(found.value)}, {goal.off(found.value)}"
    return Fit(tuple(f"{key}={value!r}" for key, value in keys.items()), int(found.value), goal.target, note)


def _goal(cfgs: Sequence[DictConfig], kind: str, match: DictConfig) -> Goal:
    """The budget that is asked for, checked."""
    if kind not in UNITS:
        raise ConfigError(f"match={kind}: expected params or flops")
    if match.by not in SOLVED:
        raise ConfigError(f"match.by={match.by}: expected ffn (its width) or d_model")
    if match.target < 0:
        raise ConfigError(f"match.target={match.target:g}: expected a number of {UNITS[kind]}, or 0 (the first's)")
    if not 0 <= match.tolerance < 1:
        raise ConfigError(f"match.tolerance={match.tolerance:g}: expected a share, such as 0.01")
    solved = SOLVED[match.by]
    if len({_arm(cfg) for cfg in cfgs}) > len({_arm(cfg, solved) for cfg in cfgs}):
        keys = ", ".join(solved)
        raise ConfigError(f"match={kind} with match.by={match.by} solves {keys}: leave them out of the sweep")
    return Goal(kind, match.target, match.by, match.tolerance)


def _arm(cfg: DictConfig, without: Sequence[str] = ()) -> str:
    """Equal for configs that differ in these keys, in seeds and in rates only."""
    apart = {*SEEDS, rates.KEY, *without}
    leaves = {key: v for key, v in flat(plain_dict(cfg)) if key not in apart and not isinstance(v, dict)}
    return json.dumps(leaves, sort_keys=True)
