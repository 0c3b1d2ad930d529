"""Find the width at which a model has a given number of parameters or FLOPs per token.

Models are built on the meta device and measured, so no formula can differ from the model. A model's size rises with its
width: interpolation and bisection find the nearest width with only a few models.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from gptx.config import instantiate
from gptx.config.plain_dict import plain_dict
from gptx.data import from_config
from gptx.errors import ConfigError, GptxError

if TYPE_CHECKING:
    from gptx.hardware.device import Machine
    from gptx.model.gpt import GPT

UNITS = {"params": "parameters", "flops": "FLOPs per token"}
Values = dict[str, float]  # dotted keys of a config and the values to set


@dataclass(frozen=True)
class Budget:
    """The size that every arm of a sweep must have.

    Attributes:
        kind: the option of `match`: "params" or "flops".
        target: number of parameters, or FLOPs per token.
        by: the width that is changed: "ffn" (its hidden width) or "d_model".
        tolerance: allowed relative difference from the target.
        machine: the machine that the runs are for, if it is not this one.
    """

    kind: str
    target: float
    by: str
    tolerance: float
    machine: "Machine | None" = None

    def measure(self, cfg: DictConfig) -> int:
        """Parameters or FLOPs per token of a config's model.

        Raises:
            ConfigError: the model cannot be built.
        """
        from gptx.model.cost import flops_per_token, n_params

        return (n_params if self.kind == "params" else flops_per_token)(_model(cfg, self.machine))

    def amount(self, size: float) -> str:
        return f"{size:,.0f} {UNITS[self.kind]}"

    def difference(self, size: float) -> str:
        return f"{100 * (size / self.target - 1):+.2f} %"

    def is_met(self, size: float) -> bool:
        return abs(size - self.target) <= self.tolerance * self.target


@dataclass(frozen=True)
class Candidate:
    """The model with the size nearest to the budget, for one way to change the config.

    Attributes:
        values: the keys that it sets.
        size: number of parameters, or FLOPs per token.
        problem: why it does not meet the budget; empty if it does.
    """

    values: Values
    size: float
    problem: str


def find_width(cfg: DictConfig, budget: Budget) -> Candidate:
    """The first candidate that meets the budget; else the nearest one, whose `problem` is a message for the user."""
    own_size, rejected = budget.measure(cfg), []
    for candidate in _candidates(cfg, budget):
        if not candidate.problem:
            return candidate
        rejected.append(candidate)
    nearest = min(rejected, key=lambda candidate: abs(candidate.size - budget.target))
    return replace(nearest, problem=_explain(cfg, budget, own_size, nearest))


def _candidates(cfg: DictConfig, budget: Budget) -> Iterator[Candidate]:
    """The ways to change a config, the least intrusive one first."""
    values: Values = {}
    if budget.by == "d_model":
        step = 2 * cfg.model.n_head  # head_dim is even
        width = _Width(max(1, round(cfg.model.d_model / step)), lambda k: {"model.d_model": k * step})
        yield (found := _nearest(cfg, budget, width, {}))
        values = found.values if math.isfinite(found.size) else {}
    if "ratio" in cfg.ffn:
        multiple = cfg.ffn.get("multiple_of", 1)
        yield _nearest(cfg, budget, _ffn_width(_with(cfg, values), multiple), values)
        if multiple > 1:
            yield _nearest(cfg, budget, _ffn_width(_with(cfg, values), 1), {**values, "ffn.multiple_of": 1})
    elif budget.by == "ffn":
        raise ConfigError(f"ffn={cfg.variant.ffn} has no key ratio to change; use match.by=d_model or another ffn")


@dataclass(frozen=True)
class _Width:
    """A width as a multiple of a step.

    Attributes:
        own: the width of the unchanged config, as a number of steps; at least 1.
        values: returns the config values for a width of n steps. A larger n gives a larger model.
    """

    own: int
    values: Callable[[int], Values]


def _ffn_width(cfg: DictConfig, step: int) -> _Width:
    """The hidden width. The config's own width keeps its ratio: several ratios are rounded to one width."""
    d_model = cfg.model.d_model
    own = max(1, round(d_model * cfg.ffn.ratio / step))
    return _Width(own, lambda k: {} if k == own else {"ffn.ratio": k * step / d_model})


def _nearest(cfg: DictConfig, budget: Budget, width: _Width, values: Values) -> Candidate:
    """The nearest model within the tolerance that the strategy accepts (tp divides widths), or else the nearest one."""

    @cache
    def size(k: int) -> float:
        try:
            return budget.measure(_with(cfg, values | width.values(k))) if k > 0 else -math.inf
        except ConfigError:  # too small or too large for a part of the model
            return math.inf if k > width.own else -math.inf

    nearest: Candidate | None = None
    for k in nearest_first(size, width.own, budget.target):
        candidate = Candidate(values | width.values(k), size(k), "outside the tolerance")
        if not budget.is_met(candidate.size):
            return nearest or candidate
        if not (problem := _strategy_problem(_with(cfg, candidate.values), budget.machine)):
            return replace(candidate, problem="")
        nearest = nearest or replace(candidate, problem=problem)
    raise AssertionError("nearest_first never ends")


def nearest_first(size: Callable[[int], float], start: int, target: float) -> Iterator[int]:
    """All numbers from 1 on, ordered by how near their size is to the target.

    Args:
        size: a rising function, -inf at 0. It is expensive, so it is called as rarely as possible.
        start: the number at which the search starts.
    """
    low, high = 0, start
    while size(high) < target:
        low, high = high, 2 * high
    bisect = False
    while high - low > 1:
        below, above, middle = size(low), size(high), (low + high) // 2
        if not bisect and math.isfinite(above - below):
            middle = low + int((target - below) / (above - below) * (high - low))
            middle = min(max(middle, low + 1), high - 1)
        low, high = (middle, high) if size(middle) < target else (low, middle)
        bisect = not bisect
    while True:
        if (target - size(low), low != start) <= (size(high) - target, high != start):
            yield low
            low -= 1
        else:
            yield high
            high += 1


def _with(cfg: DictConfig, values: Mapping[str, float]) -> DictConfig:
    changed = cfg.copy()
    for key, value in values.items():
        OmegaConf.update(changed, key, value)
    return changed


def _model(cfg: DictConfig, machine: "Machine | None") -> "GPT":
    import torch

    from gptx.hardware.device import pick
    from gptx.model.build import build

    n_vocab = _vocabulary_size(json.dumps([plain_dict(cfg[key]) for key in ("data", "tokenizer", "paths")]))
    with torch.device("meta"):
        return build(cfg, n_vocab, pick(cfg.device.type, machine))


@cache
def _vocabulary_size(groups: str) -> int:
    """Vocabulary size of the tokenizer in these groups (JSON). Cached: some tokenizers are fitted to the full text."""
    data, tokenizer, paths = json.loads(groups)
    return from_config.tokenizer_of(OmegaConf.create({"data": data, "tokenizer": tokenizer, "paths": paths})).n_vocab


def _strategy_problem(cfg: DictConfig, machine: "Machine | None") -> str:
    """Why the strategy cannot distribute this model; empty if it can."""
    from gptx.hardware.device import pick
    from gptx.strategy.batch_plan import BatchPlan

    try:
        strategy = instantiate.part(cfg.strategy)
        processes = strategy.processes(pick(cfg.device.type, machine), 0, machine and machine.per_node)
        slices = strategy.batch_slices(processes)
        strategy.check(_model(cfg, machine), processes, BatchPlan.of(cfg, slices, processes // slices))
    except GptxError as error:
        return str(error)
    return ""


def describe(cfg: DictConfig, values: Mapping[str, float]) -> str:
    """The values as a text for the user: ``ffn.ratio=4.18 (width 535)``."""
    overrides = [
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
    ]
    width = _with(cfg, values).model.d_model * values.get("ffn.ratio", 0.0)
    return " ".join(overrides) + (f" (width {width:.0f})" if width else "")


def _explain(cfg: DictConfig, budget: Budget, own_size: int, nearest: Candidate) -> str:
    """A message with the size of the arm, the nearest size that is possible, and settings that would work."""
    message = f"match={budget.kind} match.by={budget.by}: this arm has {budget.amount(own_size)} and the target is "
    message += f"{budget.target:,.0f}"
    if budget.is_met(nearest.size):
        return f"{message}; {describe(cfg, nearest.values)} would meet it, but {nearest.problem}"
    tolerance = math.ceil(1000 * abs(nearest.size / budget.target - 1)) / 1000
    ways = [f"match.tolerance={tolerance:g}"] if tolerance < 1 else []
    if budget.by == "ffn" and not find_width(cfg, replace(budget, by="d_model")).problem:
        ways.insert(0, "match.by=d_model")
    return (
        f"{message}; the nearest possible size is {nearest.size:,.0f} ({budget.difference(nearest.size)}, with "
        f"{describe(cfg, nearest.values)}); use {' or '.join([*ways, f'match.target={nearest.size:.0f}'])}"
    )
