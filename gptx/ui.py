"""``gptx ui``: start the MLflow UI with a saved view of each study."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from gptx.cli import Parser, default_sigint, exit_code
from gptx.terminal import echo
from gptx.tracking.ui_server import show_ui


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 0 after Ctrl-C or SIGTERM."""
    default_sigint()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return exit_code(lambda: _ui(_parser().parse_args(argv)))


def _ui(args: argparse.Namespace) -> None:
    try:
        show_ui(args.outputs, args.uri, args.host, args.port, send=not args.no_sync)
    except KeyboardInterrupt:
        echo()


def _parser() -> Parser:
    parser = Parser(
        "gptx ui",
        description="Show all runs in MLflow: a sorted table of the variants, and configured charts.\n"
        "Runs that are missing in MLflow are sent first.",
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder with the runs; default: outputs")
    parser.add_argument("--uri", default="", help="an MLflow server or database; default: OUTPUTS/.mlflow")
    parser.add_argument(
        "--port", type=int, default=5000, help="port of the server; default: 5000, or the next free one"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address of the server; default: 127.0.0.1, this machine only"
    )
    parser.add_argument("--no-sync", action="store_true", help="do not send runs first")
    return parser


if __name__ == "__main__":
    sys.exit(main())
