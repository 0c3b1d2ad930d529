"""The catalogue of variants: for each option its parameters, cache size, and the options and sizes that it rejects.

It is computed from the YAML files and from models that are built with them on the meta device, not from a list.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from gptx.config.axes import interacting_axes, model_axes, own_axes
from gptx.config.compose import compose
from gptx.config.instantiate import part
from gptx.config.overrides import option_file, options, own_dirs
from gptx.errors import ConfigError, reason
from gptx.kernel.base import Kernel
from gptx.model.build import build
from gptx.model.cost import Cost, cost
from gptx.model.gpt import GPT

VOCAB = 257  # of the default tokenizer
HEADER = ("variant", "what it is", "parameters", "KV bytes", "rejects")

Choice = tuple[str, str]  # axis, option


@dataclass(frozen=True)
class VariantRow:
    """One option of one axis.

    Attributes:
        description: the first comment of its YAML file.
        cost: cost of the model with this option; None for kernels, which do not change it, and for a rejected model.
        rejects: the options and sizes that the option rejects, or why it rejects the model.
    """

    axis: str
    option: str
    description: str
    cost: Cost | None
    rejects: tuple[str, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts of the row, in the order of `HEADER`."""
        kv = f"{self.cost.kv_bytes_per_token:,.1f}".removesuffix(".0") if self.cost else ""
        n_params = f"{self.cost.n_params:,}" if self.cost else ""
        return f"{self.axis}={self.option}", self.description, n_params, kv, "; ".join(self.rejects)


def table(overrides: Sequence[str] = ()) -> Iterator[VariantRow]:
    """Yield a row for each option of each axis, in the model that ``overrides`` define. Inside
    `gptx.config.own_options.own_options`, the user's own options have rows, too.

    Raises:
        ConfigError: an override is not about the model, or no variant can be built with its sizes.
    """
    if wrong := [override for override in overrides if not override.startswith(("model=", "model."))]:
        raise ConfigError(f"{wrong[0]}: expected model=NAME or model.KEY=VALUE; the table lists all other axes")
    base = _unresolved(compose(["device=cpu", *overrides]))
    with torch.device("meta"):
        build(_exchanged(base, {"attention": "mha", "pos": "none"}), VOCAB)  # raises for impossible sizes
        incompatible = _incompatible(base)
        for axis in model_axes():
            for option in options(axis, own_dirs()):
                names = tuple(_by_axis(incompatible, axis, option))
                yield _row(base, axis, option, names)


def _row(base: DictConfig, axis: str, option: str, incompatible: tuple[str, ...]) -> VariantRow:
    first_line, *_ = [*option_file(axis, option).read_text(encoding="utf-8").splitlines(), ""]
    description = first_line.removeprefix("# ") if first_line.startswith("#") else ""
    if axis == "kernel" and option in options(axis):
        return VariantRow(axis, option, description, None, incompatible)
    try:
        model = build(_exchanged(base, {axis: option}), VOCAB)
        if axis == "kernel":
            return VariantRow(axis, option, description, None, incompatible)
        price = cost(model, torch.bfloat16)
    except Exception as error:  # a class of the user may raise anything
        if not isinstance(error, ConfigError) and option in options(axis):
            raise
        return VariantRow(axis, option, description, None, (reason(error),))
    return VariantRow(axis, option, description, price, (*_rejected_sizes(base, axis, option), *incompatible))


def _unresolved(cfg: DictConfig) -> DictConfig:
    """The keys that a model is built from, each option as its YAML file defines it. Fewer keys are copied faster."""
    keys = ("model", "variant", "seed", "device", "precision", "data", "activation_checkpointing")
    needed = OmegaConf.masked_copy(cfg, [*model_axes(), *keys])
    return _exchanged(needed, {axis: cfg.variant[axis] for axis in model_axes()})


def with_options(base: DictConfig, choices: dict[str, str], **model: int) -> DictConfig:
    """Return a copy of ``base`` with the options of ``choices`` (axis -> option), as their YAML files define them, and
    with ``model``, new values for keys of the group model."""
    return _exchanged(base, {axis: choices.get(axis, base.variant[axis]) for axis in model_axes()}, **model)


def _exchanged(base: DictConfig, choices: dict[str, str], **model: int) -> DictConfig:
    """A copy of ``base`` with other options for the axes of ``choices``."""
    cfg = base.copy()
    cfg.model.update(model)
    for axis, option in choices.items():
        cfg[axis], cfg.variant[axis] = _yaml(option_file(axis, option)).copy(), option
    return cfg


@cache
def _yaml(path: Path) -> DictConfig:
    found = OmegaConf.load(path)
    assert isinstance(found, DictConfig)
    return found


def _rejected_sizes(base: DictConfig, axis: str, option: str) -> Iterator[str]:
    """Yield the sizes that an option rejects, together with an attention and an encoding that accept all sizes."""
    heads, width = base.model.n_head, base.model.d_model // base.model.n_head
    choices = {"attention": "mha", "pos": "none", axis: option}
    n_layer = _fewest_layers(base, choices) or base.model.n_layer
    if (longest := build(_exchanged(base, choices, n_layer=n_layer), VOCAB).pos.max_length) is not None:
        yield "rows longer than model.context" if longest == base.model.context else f"rows longer than {longest:,}"
    if not _builds(_exchanged(base, choices, n_layer=n_layer, d_model=heads * (width | 1))):
        yield "an odd head_dim"
    if not _builds(_exchanged(base, choices, n_layer=n_layer, n_head=1)):
        yield "an odd model.n_head"


def _fewest_layers(base: DictConfig, choices: dict[str, str]) -> int | None:
    """The smallest number of layers with which options can be built: enough where parameters and cost do not matter,
    because the pattern of a window repeats from there on. None if no number suffices."""
    counts = range(1, base.model.n_layer + 1)
    return next((n for n in counts if _builds(_exchanged(base, choices, n_layer=n))), None)


def _incompatible(base: DictConfig) -> dict[Choice, list[Choice]]:
    """Return for each option the options of other axes with which no model can be built, and the kernels that cannot
    compute it."""
    incompatible: dict[Choice, list[Choice]] = defaultdict(list)
    choices = [(axis, option) for axis in interacting_axes() for option in options(axis, own_dirs())]
    layers = {one: n for one in choices if (n := _fewest_layers(base, dict([one])))}

    def builds(*combination: Choice) -> bool:
        n_layer = max(layers[one] for one in combination)
        return _builds(_exchanged(base, dict(combination), n_layer=n_layer))

    fit: set[frozenset[Choice]] = set()
    for combination in _combinations(list(layers)):
        if builds(*combination):
            fit |= {frozenset(pair) for pair in itertools.combinations(combination, 2)}
    pairs = [pair for pair in itertools.combinations(layers, 2) if pair[0][0] != pair[1][0]]
    rejected = [pair for pair in pairs if frozenset(pair) not in fit and not builds(*pair)]
    for choice in layers:
        model = build(_exchanged(base, {"window": "sliding", **dict([choice])}, n_layer=layers[choice]), VOCAB)
        rejected += [
            (choice, ("kernel", kernel)) for kernel in options("kernel", own_dirs()) if not _supports(kernel, model)
        ]
    for one, other in rejected:
        incompatible[one].append(other)
        incompatible[other].append(one)
    return incompatible


def _combinations(choices: Sequence[Choice]) -> Iterator[tuple[Choice, ...]]:
    """Yield combinations of one option of each axis, in which all pairs of options of two axes occur: all pairs of the
    two longest axes, to which the options of the others are assigned in turn. A model that can be built with three
    options shows that each two of them fit together."""
    by_axis = [list(group) for _, group in itertools.groupby(choices, key=lambda choice: choice[0])]
    if len(by_axis) < 2:
        return
    first, second, *others = sorted(by_axis, key=len, reverse=True)
    for (i, one), (j, other) in itertools.product(enumerate(first), enumerate(second)):
        yield one, other, *(options[(i + j) % len(options)] for options in others)


def _by_axis(incompatible: dict[Choice, list[Choice]], axis: str, option: str) -> Iterator[str]:
    """Yield ``other_axis=a,b`` for each axis with options that are incompatible with this one."""
    for other, group in itertools.groupby(sorted(incompatible[axis, option]), key=lambda choice: choice[0]):
        yield f"{other}={','.join(name for _, name in group)}"


def _builds(cfg: DictConfig) -> bool:
    try:
        build(cfg, VOCAB)
    except Exception as error:
        if isinstance(error, ConfigError) or own_axes(cfg):  # a class of the user may raise anything
            return False
        raise
    return True


def _supports(option: str, model: GPT) -> bool:
    """Whether a kernel can compute every layer of a model, given the device and the packages that it needs."""
    try:
        kernel: Kernel = part(_yaml(option_file("kernel", option)), model.shape, model.kernel.demands)
        return not any(kernel.unsupported(*layer) for layer in zip(model.windows, model.layer_pos, strict=True))
    except Exception:
        if option in options("kernel"):
            raise
        return False  # a class of the user may raise anything; its own row says what


def markdown(rows: Iterable[VariantRow]) -> Iterator[str]:
    """Yield the lines of the table in Markdown."""
    for cells in itertools.chain([HEADER, ("---", "---", "---:", "---:", "---")], (row.cells for row in rows)):
        yield "| " + " | ".join(cells) + " |"


def rich_table(rows: Sequence[VariantRow]) -> Table:
    """A table for the terminal, with a horizontal line between the options of two axes."""
    found = Table(*HEADER, title="Variants")
    found.columns[2].justify = found.columns[3].justify = "right"
    found.columns[0].no_wrap, found.columns[0].min_width = True, max(len(row.cells[0]) for row in rows)
    found.columns[1].overflow = found.columns[4].overflow = "fold"
    for row, following in zip(rows, [*rows[1:], rows[-1]], strict=True):
        found.add_row(*row.cells, end_section=row.axis != following.axis)
    return found
