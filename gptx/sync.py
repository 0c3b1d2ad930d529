"""``gptx sync outputs/``: write the journals of all runs to MLflow, any number of times."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gptx.cli import Parser, exit_code
from gptx.errors import GptxError
from gptx.tracking.sync import sync

_HELP = """\
Write the journals of finished, running and killed runs to MLflow.
Records that MLflow already has are not sent again.

  gptx sync outputs/                               all runs, into the store outputs/.mlflow
  gptx sync outputs/ --uri http://127.0.0.1:5000   all runs, into a server
  gptx sync outputs/default                        the runs of one study, or one run's folder

To start again from nothing, remove outputs/.mlflow and sync.
Exit codes: 0 all runs were sent, 1 a run could not be sent, 2 a mistake in the command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return exit_code(lambda: _sync(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("gptx sync", description=_HELP)
    parser.add_argument("root", type=Path, metavar="DIR", help="outputs/, a study in it, or one run folder")
    parser.add_argument("--uri", default="", help="an MLflow server or database; default: the store under DIR")
    return parser


def _sync(args: argparse.Namespace) -> int:
    if not args.root.is_dir():
        raise GptxError(f"no such folder: {args.root}; expected the outputs folder of gptx run")
    count, failures = sync(args.root, args.uri)
    if not count:
        raise GptxError(f"no run in {args.root}; gptx run makes one")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
