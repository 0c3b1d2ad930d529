"""``python -m gptx.variants``: every variant there is, what it is, what it costs, and what it refuses.

The table is made from the YAML files and from models that are built with them, not from a list. Parameters and cache
(in bf16, held after a row of the trained length, per token of it) are those of the default model with this one part
exchanged; what it refuses was tried out.
"""

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from gptx.cli import Parser, exit_code
from gptx.config.axes import interacting_axes, model_axes
from gptx.config.compose import compose
from gptx.config.instantiate import part
from gptx.config.overrides import conf_dir, options
from gptx.errors import ConfigError
from gptx.kernel.base import Kernel
from gptx.model.build import build
from gptx.model.cost import Cost, cost
from gptx.model.gpt import GPT

VOCAB = 257  # of the default tokenizer
HEAD = ("variant", "what it is", "parameters", "KV bytes", "refuses")
EXAMPLES = """examples:
  gptx variants                    the default model
  gptx variants model=gpt2         another one
  gptx variants --markdown         the README's table
"""


@dataclass(frozen=True)
class Row:
    """One option of one axis; ``kv_bytes`` per token. ``cost`` is None for a kernel, which changes neither figure, and
    where the option refuses the model."""

    axis: str
    option: str
    what: str
    cost: Cost | None
    refuses: tuple[str, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        kv = f"{self.cost.kv_bytes_per_token:,.1f}".removesuffix(".0") if self.cost else ""
        n_params = f"{self.cost.n_params:,}" if self.cost else ""
        return f"{self.axis}={self.option}", self.what, n_params, kv, "; ".join(self.refuses)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return exit_code(lambda: _show_table(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("gptx variants", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="another model than the default one")
    parser.add_argument("--markdown", action="store_true", help="print a markdown table")
    return parser


def _show_table(args: argparse.Namespace) -> None:
    rows = list(table(args.overrides))
    if args.markdown:
        print(_markdown(rows))
    else:
        _show(rows)


def table(overrides: Sequence[str] = ()) -> Iterator[Row]:
    """A row for each option of each axis, with the model of these overrides round it."""
    if wrong := [word for word in overrides if not word.startswith(("model=", "model."))]:
        raise ConfigError(f"{wrong[0]}: the table is about all other parts; model=... and model.KEY=... can be given")
    base = compose(["device=cpu", *overrides])
    with torch.device("meta"):
        build(exchanged(base, {"attention": "mha", "pos": "none"}), VOCAB)  # sizes that nobody takes
        foes = _foes(base)
        for axis in model_axes():
            for option in options(axis):
                what = (conf_dir() / axis / f"{option}.yaml").read_text().splitlines()[0].removeprefix("# ")
                met = tuple(_named(foes, axis, option))
                yield Row(axis, option, what, None, met) if axis == "kernel" else _row(base, axis, option, what, met)


def _row(base: DictConfig, axis: str, option: str, what: str, met: tuple[str, ...]) -> Row:
    try:
        price = cost(build(exchanged(base, {axis: option}), VOCAB), torch.bfloat16)
    except ConfigError as refusal:
        return Row(axis, option, what, None, (str(refusal),))
    return Row(axis, option, what, price, (*_refused(base, axis, option), *met))


def exchanged(base: DictConfig, parts: dict[str, str], **model: int) -> DictConfig:
    """A config with these options in place of its own, as their YAML files have them; ``model``: keys of that group."""
    cfg = base.copy()
    cfg.model.update(model)
    for axis in model_axes():
        option = parts.get(axis, cfg.variant[axis])
        cfg[axis], cfg.variant[axis] = _yaml(conf_dir() / axis / f"{option}.yaml").copy(), option
    return cfg


@cache
def _yaml(path: Path) -> DictConfig:
    found = OmegaConf.load(path)
    assert isinstance(found, DictConfig)
    return found


def _refused(base: DictConfig, axis: str, option: str) -> Iterator[str]:
    """Sizes that do not go with an option, beside parts that take any."""
    heads, width = base.model.n_head, base.model.d_model // base.model.n_head
    alone = {"attention": "mha", "pos": "none", axis: option}
    if (longest := build(exchanged(base, alone), VOCAB).pos.max_length) is not None:
        yield "rows longer than model.context" if longest == base.model.context else f"rows longer than {longest:,}"
    if not _builds(exchanged(base, alone, d_model=heads * (width | 1))):
        yield "an odd head_dim"
    if not _builds(exchanged(base, alone, n_head=1)):
        yield "an odd model.n_head"


Choice = tuple[str, str]  # axis, option


def _foes(base: DictConfig) -> dict[Choice, list[Choice]]:
    """For each option those it does not go with: of another axis, or kernels that have no way to compute it."""
    foes: dict[Choice, list[Choice]] = defaultdict(list)
    choices = [(axis, option) for axis in interacting_axes() for option in options(axis)]
    choices = [choice for choice in choices if _builds(exchanged(base, dict([choice])))]
    pairs = [(a, b) for a, b in itertools.combinations(choices, 2) if a[0] != b[0]]
    met = [pair for pair in pairs if not _builds(exchanged(base, dict(pair)))]
    for choice in choices:
        model = build(exchanged(base, {"window": "sliding", **dict([choice])}), VOCAB)
        met += [(choice, ("kernel", kernel)) for kernel in options("kernel") if not _serves(kernel, model)]
    for one, other in met:
        foes[one].append(other)
        foes[other].append(one)
    return foes


def _named(foes: dict[Choice, list[Choice]], axis: str, option: str) -> Iterator[str]:
    """``other=a,b`` for each axis of which options do not go with this one."""
    for other, group in itertools.groupby(sorted(foes[axis, option]), key=lambda choice: choice[0]):
        yield f"{other}={','.join(name for _, name in group)}"


def _builds(cfg: DictConfig) -> bool:
    try:
        build(cfg, VOCAB)
    except ConfigError:
        return False
    return True


def _serves(option: str, model: GPT) -> bool:
    """Whether a kernel can compute every layer of a model, on a device and with the packages that it wants."""
    kernel: Kernel = part(_yaml(conf_dir() / "kernel" / f"{option}.yaml"), model.shape, model.kernel.demands)
    return not any(kernel.unsupported(*layer) for layer in zip(model.windows, model.layer_pos, strict=True))


def _markdown(rows: list[Row]) -> str:
    lines = [HEAD, ("---", "---", "---:", "---:", "---"), *(row.cells for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _show(rows: list[Row]) -> None:
    table = Table(*HEAD, title="Variants")
    table.columns[2].justify = table.columns[3].justify = "right"
    table.columns[0].no_wrap, table.columns[0].min_width = True, max(len(row.cells[0]) for row in rows)
    table.columns[1].overflow = table.columns[4].overflow = "fold"
    for row, before in zip(rows, [None, *rows], strict=False):
        if before is not None and before.axis != row.axis:
            table.add_section()
        table.add_row(*row.cells)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
