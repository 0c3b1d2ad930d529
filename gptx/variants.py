"""List all variants: a description, parameters, cache size, and the options and sizes that the variant rejects.

Parameters and cache size are those of the default model in which only this option is changed. The cache size is in
bytes per token in bf16, after a row of model.context tokens.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from gptx.cli import Parser, exit_code
from gptx.config.own_options import own_options
from gptx.console import Console
from gptx.model.variants_table import HEADER, VariantRow, markdown, table
from gptx.terminal import echo

EXAMPLES = """examples:
  gptx variants model=gpt2         another model
  gptx variants --config-dir own   with your own options
  gptx variants --markdown         the table of docs/variants.md
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return exit_code(lambda: _print_table(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("gptx variants", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="model=NAME or model.KEY=VALUE")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your own options: DIR/AXIS/OPTION.yaml")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser


def _print_table(args: argparse.Namespace) -> None:
    with own_options(args.config_dir):
        rows = list(table(args.overrides))
    echo(markdown(rows)) if args.markdown else Console().print(_rich_table(rows))


def _rich_table(rows: Sequence[VariantRow]) -> Table:
    """A table for the terminal, with a horizontal line between the options of two axes."""
    table = Table(*HEADER, title="Variants")
    table.columns[2].justify = table.columns[3].justify = "right"
    table.columns[0].no_wrap, table.columns[0].min_width = True, max(len(row.cells[0]) for row in rows)
    table.columns[1].overflow = table.columns[4].overflow = "fold"
    for row, previous in zip(rows, [None, *rows], strict=False):
        if previous is not None and previous.axis != row.axis:
            table.add_section()
        table.add_row(*row.cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
