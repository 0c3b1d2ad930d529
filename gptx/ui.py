"""``python -m gptx.ui``: start the MLflow UI with a saved view of each study."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from gptx.cli import Parser, default_sigint, exit_code
from gptx.errors import GptxError, RunFailed
from gptx.runs import journal
from gptx.tracking.store import Store, store_uri
from gptx.tracking.sync import sync
from gptx.tracking.ui_server import free_port, serve, show_links, write_views


def run(args: argparse.Namespace) -> None:
    nothing = GptxError(f"no run in {args.outputs}; python -m gptx.run makes one (about two minutes)")
    if not (args.uri or args.outputs.is_dir()):
        raise nothing
    if not args.no_sync:
        if not any(journal.runs(args.outputs)):
            raise nothing
        sync(args.outputs, args.uri)
    store = Store(args.outputs, args.uri)
    experiments = write_views(store)
    if not experiments:
        raise nothing
    if store.uri.startswith("http"):
        show_links(store.uri.rstrip("/"), experiments)
        return
    port = free_port(args.host, args.port)
    print(f"starting the MLflow UI on port {port} ...", flush=True)
    with serve(args.outputs, store_uri(args.outputs, args.uri), args.host, port) as (base, server):
        show_links(base, experiments)
        print("\nPress Ctrl-C to stop.", flush=True)
        raise RunFailed(f"the MLflow server ended with code {server.wait()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 0 after Ctrl-C."""
    default_sigint()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return exit_code(lambda: _until_interrupted(_parser().parse_args(argv)))


def _until_interrupted(args: argparse.Namespace) -> None:
    try:
        run(args)
    except KeyboardInterrupt:
        print()


def _parser() -> Parser:
    parser = Parser(
        "gptx ui",
        description="Show all runs in MLflow: a sorted table of the variants, and configured charts.\n"
        "Runs that are missing in MLflow are sent first.",
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--uri", default="", help="an MLflow server or database; default: OUTPUTS/.mlflow")
    parser.add_argument("--port", type=int, default=5000, help="default: 5000, or the next free one")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--no-sync", action="store_true", help="do not send runs first")
    return parser


if __name__ == "__main__":
    sys.exit(main())
