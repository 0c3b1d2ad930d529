"""`match=params` and `match=flops`: give every arm of a sweep the same budget by changing its ffn's width or d_model.

The result is ordinary overrides (``ffn.ratio=4.1796875``), so a matched cell is still a plain command.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from gptx.config.plain_dict import SEEDS, PlainConfig, flat, plain_dict
from gptx.errors import ConfigError
from gptx.sweep.execute.isolated import map_isolated
from gptx.sweep.plan import learning_rates
from gptx.sweep.plan.width_search import UNITS, Budget, describe, find_width

if TYPE_CHECKING:
    from gptx.hardware.device import Machine

CHANGED_KEYS = {
    "ffn": ("ffn.ratio", "ffn.multiple_of"),
    "d_model": ("model.d_model", "ffn.ratio", "ffn.multiple_of"),
}


@dataclass(frozen=True)
class Matched:
    """How an arm is changed to meet the budget.

    Attributes:
        overrides: added to those of the arm; empty if the arm meets the budget without a change.
        size: number of parameters, or FLOPs per token, of the matched model.
        target: the required size, in the same unit.
        note: a text for the preview: "ffn.ratio=4.18 (width 535): 820,992 parameters, +0.06 %".
    """

    overrides: tuple[str, ...]
    size: int
    target: float
    note: str


@dataclass(frozen=True)
class Unmatched:
    """The reason why an arm cannot meet the budget, in one line."""

    reason: str


def match_budgets(
    cfgs: Sequence[DictConfig | PlainConfig], options: DictConfig, machine: "Machine | None" = None
) -> list[Matched | Unmatched]:
    """Find for each config of a sweep the overrides that give it the budget. Configs that differ only in their seeds
    and learning rates are one arm and get the same overrides.

    Args:
        options: a config with the keys of `match`.
        machine: the machine that the runs are for, if it is not this one.

    Raises:
        ConfigError: the keys of `match` are wrong, or the sweep varies a key that matching would change.
    """
    budget = replace(_budget(cfgs, options.variant.match, options.match), machine=machine)
    found: dict[str, Matched | Unmatched] = {}
    if not budget.target:
        [first] = map_isolated(_measure, [(plain_dict(cfgs[0]), budget)], on_failure=Unmatched)
        if isinstance(first, Unmatched):
            others = Unmatched(
                "match.target=0 takes the size of the first combination, but that one cannot be built "
                f"({first.reason}); set match.target"
            )
            return [first if _arm_key(cfg) == _arm_key(cfgs[0]) else others for cfg in cfgs]
        budget = replace(budget, target=first)
        found[_arm_key(cfgs[0])] = Matched((), first, first, f"the target: {budget.amount(first)}")
    to_match = {_arm_key(cfg): (plain_dict(cfg), budget) for cfg in cfgs if _arm_key(cfg) not in found}
    found |= zip(to_match, map_isolated(_match, list(to_match.values()), on_failure=Unmatched), strict=True)
    return [found[_arm_key(cfg)] for cfg in cfgs]


def _measure(work: tuple[dict[str, Any], Budget]) -> int:
    plain, budget = work
    return budget.measure(OmegaConf.create(plain))


def _match(work: tuple[dict[str, Any], Budget]) -> Matched:
    cfg, budget = OmegaConf.create(work[0]), work[1]
    found = find_width(cfg, budget)
    if found.problem:
        raise ConfigError(found.problem)
    changed = {key: value for key, value in found.values.items() if OmegaConf.select(cfg, key) != value}
    note = f"{describe(cfg, changed) or 'unchanged'}: {budget.amount(found.size)}, {budget.difference(found.size)}"
    return Matched(tuple(f"{key}={value!r}" for key, value in changed.items()), int(found.size), budget.target, note)


def _budget(cfgs: Sequence[DictConfig | PlainConfig], kind: str, match: DictConfig) -> Budget:
    """The budget that the options ask for, checked."""
    if kind not in UNITS:
        raise ConfigError(f"match={kind}: expected params or flops")
    if match.by not in CHANGED_KEYS:
        raise ConfigError(f"match.by={match.by}: expected ffn (change its width) or d_model")
    if match.target < 0:
        raise ConfigError(
            f"match.target={match.target:g}: expected a number of {UNITS[kind]}, or 0: as many as the first combination"
        )
    if not 0 <= match.tolerance < 1:
        raise ConfigError(f"match.tolerance={match.tolerance:g}: expected a fraction below 1, such as 0.01")
    changed = CHANGED_KEYS[match.by]
    if len({_arm_key(cfg) for cfg in cfgs}) > len({_arm_key(cfg, changed) for cfg in cfgs}):
        keys = ", ".join(changed)
        raise ConfigError(f"match={kind} with match.by={match.by} changes {keys}; remove them from the sweep")
    return Budget(kind, match.target, match.by, match.tolerance)


def _arm_key(cfg: DictConfig | PlainConfig, without: Sequence[str] = ()) -> str:
    """Equal for configs that differ only in seeds, learning rate and the keys of ``without``."""
    ignored = {*SEEDS, learning_rates.KEY, *without}
    leaves = {key: v for key, v in flat(plain_dict(cfg)) if key not in ignored and not isinstance(v, dict)}
    return json.dumps(leaves, sort_keys=True)
