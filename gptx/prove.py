"""``gptx prove [KEY=VALUE ...]``: check the properties that every variant must have, on small random models."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from gptx.cli import Parser, check_json, exit_code

if TYPE_CHECKING:
    from gptx.proofs.combinations import Proven

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
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all outcomes to this file")
    return parser


def _prove(args: argparse.Namespace) -> int:
    check_json(args.json)
    from gptx.config.compose import compose
    from gptx.config.own_options import own_options
    from gptx.proofs.combinations import combinations, proven

    with own_options(args.config_dir):
        configs = combinations(compose(["device=cpu", *args.overrides]), args.overrides)
    bar = track(configs, "proving", console=Console(stderr=True), transient=True)
    found = [proven(cfg) for cfg in bar]
    if args.json:
        args.json.write_text(json.dumps([_record(one) for one in found], indent=1) + "\n", encoding="utf-8")
    _show(found)
    return int(any(one.failures for one in found) or all(one.rejection for one in found))


def _record(one: "Proven") -> dict[str, object]:
    return {
        "combination": one.name,
        "rejection": one.rejection,
        "failures": {failure.proof.__name__: failure.reason for failure in one.failures},
    }


def _show(found: Sequence["Proven"]) -> None:
    from gptx.proofs.full import PROOFS, title

    models = [one for one in found if not one.rejection]
    console = Console(highlight=False, markup=False)
    table = Table("property", "holds in", title=f"{len(models)} model{'s' * (len(models) != 1)}")
    failed = {proof: [(one, f.reason) for one in models for f in one.failures if f.proof is proof] for proof in PROOFS}
    for proof, cases in failed.items():
        table.add_row(title(proof), f"{len(models) - len(cases)} of {len(models)}" if cases else "all")
    console.print(table)
    for proof, cases in failed.items():
        for one, reason in cases[:1]:
            console.print(f"\nNot true: {title(proof)}.\n  {reason}\n  in {one.name}", soft_wrap=True)
    for one in found:
        if one.rejection:
            console.print(f"\nRejected: {one.name}\n  {one.rejection}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
