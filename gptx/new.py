"""``gptx new AXIS NAME``: write a working option of your own, to change."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gptx.cli import Parser, exit_code
from gptx.config.contracts import PAGE
from gptx.config.new_option import template_axes, write_option
from gptx.terminal import echo, shell_words

_HELP = """\
Write an option of your own: DIR/NAME_AXIS.py, a Python module with a working class or function, and DIR/AXIS/NAME.yaml,
which names it and has a default for each of its keys. Both are examples to change. Existing files are never replaced.
"""
EXAMPLES = f"""axes: {", ".join(template_axes())}

examples:
  gptx new attention mine                                  own/mine_attention.py and own/attention/mine.yaml
  gptx run --config-dir own attention=mine                 trains it, after a check of a second
  gptx prove --config-dir own attention=mine               proves it with every encoding and window
  gptx run -m --config-dir own attention=mha,mine seed=0,1 compares it

{PAGE} describes what each axis requires: methods, attributes, shapes.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    return exit_code(lambda: _new(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("gptx new", description=_HELP, epilog=EXAMPLES)
    parser.add_argument("axis", metavar="AXIS", help="what it is a variant of, e.g. attention")
    parser.add_argument("name", metavar="NAME", help="its name: a-z, 0-9 and _, e.g. mine")
    parser.add_argument("--dir", type=Path, default=Path("own"), help="folder of your own options (default: own)")
    return parser


def _new(args: argparse.Namespace) -> None:
    new = write_option(args.axis, args.name, args.dir)
    echo(f"wrote {new.code}\nwrote {new.config}")
    choice = shell_words(["--config-dir", str(args.dir), f"{new.axis}={new.name}"])
    commands = {"train it": "run"} | ({"prove it": "prove"} if new.has_proofs else {})
    for label, command in commands.items():
        echo(f"{label}: gptx {command} {choice}")


if __name__ == "__main__":
    sys.exit(main())
