"""List all variants: a description, parameters, cache size, and the options and sizes that the variant rejects.

Parameters and cache size are those of the default model in which only this option is changed. The cache size is in
bytes per token in bf16, after a row of model.context tokens.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.progress import track

from gptx.cli import Parser, exit_code
from gptx.config.own_options import own_options
from gptx.console import Console
from gptx.model.variants_table import VariantRow, markdown, rich_table, table
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
        if not args.markdown:
            Console().print(rich_table(_counted(table(args.overrides))))
            return
        for line in markdown(table(args.overrides)):
            echo(line)


def _counted(rows: Iterable[VariantRow]) -> list[VariantRow]:
    """The rows; a terminal shows their number until all are known."""
    console = Console(file=sys.stderr)
    return list(track(rows, "Building models", console=console, transient=True, disable=not console.is_terminal))


if __name__ == "__main__":
    sys.exit(main())
