"""``gptx prove [KEY=VALUE ...]``: check the properties that every variant must have, on small random models."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from gptx.cli import Parser, exit_code
from gptx.console import Console
from gptx.output_files import STDOUT, check_output, output_file, write_output

_HELP = """\
Prove the chosen options together with every option that they interact with: an attention, an encoding or a window with
those of the other two axes; a feed-forward network, a norm or a placement likewise. Each combination is a model of 2
layers and 12 tokens in float64 with random weights. gptx's own tests are the same proofs. Exit code 1: a property is
missing.
"""
EXAMPLES = """examples:
  python -m gptx.prove attention=mine --config-dir own     an attention of your own
  python -m gptx.prove window=mine window.size=5 --config-dir own   with a size that hides a part of 12 tokens
  gptx prove pos=rope                                      an encoding of gptx
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return exit_code(lambda: _prove(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("gptx prove", description=_HELP, epilog=EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. attention=mine (default: none)")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your own options: DIR/AXIS/OPTION.yaml")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="all outcomes; -: print them, and no table")
    return parser


def _prove(args: argparse.Namespace) -> int:
    check_output("--json", args.json)
    from gptx.config.compose import compose
    from gptx.config.own_options import own_options
    from gptx.proofs.combinations import combinations, proven
    from gptx.proofs.proof_table import record, show

    with own_options(args.config_dir):
        configs = combinations(compose(["device=cpu", *args.overrides]), args.overrides)
    bar = track(configs, "proving", console=Console(stderr=True), transient=True)
    found = [proven(cfg) for cfg in bar]
    if args.json:
        write_output(args.json, json.dumps([record(one) for one in found], indent=1) + "\n")
    if args.json != STDOUT:
        show(found)
    return int(any(one.failures for one in found) or all(one.rejection for one in found))


if __name__ == "__main__":
    sys.exit(main())
