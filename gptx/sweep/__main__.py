"""``gptx sweep``: start a sweep; list sweeps, show the status of one, collect its results, or cancel it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from gptx import cli
from gptx.sweep.state.folder import find_sweep, list_sweeps

_HELP = """\
  gptx sweep KEY=A,B ...       start or resume a sweep: the same as gptx run -m KEY=A,B ...
  gptx sweep list              the sweeps in outputs/
  gptx sweep status [SWEEP]    the status of every run: waiting, running, finished, failed and why
  gptx sweep collect [SWEEP]   write its runs to MLflow, compare the finished ones, list the others
  gptx sweep cancel [SWEEP]    end it: running runs save a checkpoint, and the same command resumes them

SWEEP is the name or the folder of a sweep, by default the newest. `collect` exits with 1 if a run has failed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. With overrides, this is ``gptx run -m``."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any("=" in argument and argument[0] != "-" for argument in arguments):
        from gptx import run

        return run.main(["-m", *arguments])
    return cli.exit_code(lambda: _run(arguments))


def _run(argv: Sequence[str]) -> int:
    from gptx.sweep.commands.cancel import cancel
    from gptx.sweep.commands.collect import collect
    from gptx.sweep.commands.status_table import show_list, show_status

    parser = cli.Parser("gptx sweep", description=_HELP)
    parser.add_argument("action", choices=["list", "status", "collect", "cancel"], metavar="ACTION")
    parser.add_argument("sweep", nargs="?", default="", metavar="SWEEP")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the folder of all runs (outputs)")
    args = parser.parse_args(argv)
    if args.action == "list":
        show_list(list_sweeps(args.outputs))
        return 0
    sweep = find_sweep(args.outputs, args.sweep)
    if args.action == "collect":
        return collect(sweep)
    {"status": show_status, "cancel": cancel}[args.action](sweep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
