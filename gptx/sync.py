"""``python -m gptx.sync outputs/``: make MLflow show what the journals say, as often as you like."""

import argparse
import sys
from pathlib import Path

from gptx import journal
from gptx.cli import Parser
from gptx.errors import GptxError
from gptx.store import FOLDER, Store, one_line

_HELP = """\
Rebuild the MLflow view of finished, running and killed runs from their journals.
Repeat it as often as you like: what is there is not sent again.

  python -m gptx.sync outputs/                               all runs, into the store outputs/.mlflow
  python -m gptx.sync outputs/ --uri http://127.0.0.1:5000   all runs, into a server
  python -m gptx.sync outputs/default                        the runs of one study, or one run's folder

To start from nothing: remove outputs/.mlflow and sync. exit code: 0 all there, 1 a run could not be sent,
2 a mistake in the command.
"""


def outputs_of(root: Path) -> Path:
    """The outputs folder that ``root`` (itself, a study or a run) belongs to: ``<outputs>/<study>/<run>``."""
    root = root.resolve()
    for folder in (root, *list(root.parents)[:2]):
        if (folder / FOLDER).is_dir():
            return folder
    first = next(journal.runs(root), root / "study" / "run")
    return {root: root.parent.parent, root / first.name: root.parent}.get(first, root)


def sync(root: Path, uri: str = "", *, show: bool = True) -> tuple[int, list[str]]:
    """Replay every run at or below ``root``. Returns the number of runs and one line for each that failed."""
    return send(list(journal.runs(root)), outputs_of(root), uri, show=show)


def send(run_dirs: list[Path], outputs: Path, uri: str = "", *, show: bool = True) -> tuple[int, list[str]]:
    """The same of these runs, below ``outputs``."""
    from rich.console import Console
    from rich.progress import track

    if not run_dirs:
        return 0, []
    store = Store(outputs, uri)
    from gptx.replay import Replay

    console = Console(stderr=True, highlight=False)
    rows = new = 0
    failures = []
    for run_dir in track(run_dirs, "MLflow", console=console, transient=True, disable=not show):
        try:
            replay = Replay(store, outputs, run_dir)
            replay.push()
        except Exception as error:  # one broken run must not keep the others away
            failures.append(f"{run_dir}: {one_line(error)}")
            continue
        rows, new = rows + replay.rows, new + replay.new_rows
    if show:
        for line in failures:
            console.print(f"failed: {line}", markup=False, soft_wrap=True)
        done = f"{len(run_dirs) - len(failures)} of {len(run_dirs)} runs, {rows} rows, {new} new, in {store.uri}"
        Console(highlight=False).print(done, markup=False, soft_wrap=True)
    return len(run_dirs), failures


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
