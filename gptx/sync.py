"""``python -m gptx.sync outputs/``: write the journals of all runs to MLflow, any number of times."""

import argparse
import sys
from pathlib import Path

from gptx.cli import Parser
from gptx.errors import GptxError
from gptx.tracking.sync import sync

_HELP = """\
Write the journals of finished, running and killed runs to MLflow.
Records that MLflow already has are not sent again.

  python -m gptx.sync outputs/                               all runs, into the store outputs/.mlflow
  python -m gptx.sync outputs/ --uri http://127.0.0.1:5000   all runs, into a server
  python -m gptx.sync outputs/default                        the runs of one study, or one run's folder

To start again from nothing, remove outputs/.mlflow and sync.
Exit codes: 0 all runs were sent, 1 a run could not be sent, 2 a mistake in the command.
"""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m gptx.sync", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR", help="outputs/, a study in it, or one run folder")
    parser.add_argument("--uri", default="", help="an MLflow server or database; default: the store under DIR")
    try:
        args = parser.parse_args(argv)
        if not args.root.is_dir():
            raise GptxError(f"no such folder: {args.root}; expected the outputs folder of gptx.run")
        count, failures = sync(args.root, args.uri)
        if not count:
            raise GptxError(f"no run in {args.root}; python -m gptx.run makes one")
    except GptxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
