"""``gptx compare``: compare the variants under outputs/, on the terminal and in files."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gptx.cli import Parser, exit_code
from gptx.compare import render
from gptx.compare.files import as_json, picture, runs_csv, variants_csv
from gptx.compare.selection import find_runs
from gptx.compare.summary import summarise
from gptx.console import Console
from gptx.errors import GptxError
from gptx.output_files import STDOUT, check_output, output_file, write_output

_FILES = {
    "csv": "raw figures, one row for each variant",
    "runs_csv": "raw figures, one row for each run and seed",
    "json": "raw figures of variants and runs, warnings",
    "svg": "the table as a picture",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return exit_code(lambda: _compare(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("gptx compare", description=__doc__)
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="run folders, or folders that contain them (default: outputs)",
    )
    parser.add_argument("--study", metavar="NAME", help="only the runs of this study")
    parser.add_argument(
        "--sort", metavar="COLUMN", default="val_bpb", help="sort by this column, best first (default: val_bpb)"
    )
    parser.add_argument("--all-keys", action="store_true", help="also show keys that only differ between options")
    parser.add_argument("--all", action="store_true", help="also show the rates that sweep.lr tried and did not choose")
    parser.add_argument("--include-unfinished", action="store_true", help="show unfinished runs in separate rows")
    for kind, what in _FILES.items():
        parser.add_argument(
            _option(kind), type=output_file, metavar="FILE", help=f"{what}; -: print them, and no table"
        )
    return parser


def _compare(args: argparse.Namespace) -> None:
    files = {kind: getattr(args, kind) for kind in _FILES if getattr(args, kind)}
    for kind, path in files.items():
        check_output(_option(kind), path)
    if len(printed := [_option(kind) for kind, path in files.items() if path == STDOUT]) > 1:
        raise GptxError(f"{' and '.join(printed)} print to stdout; give all but one the name of a file")
    paths = args.paths or [Path("outputs")]
    found = find_runs(paths, args.study, all_runs=args.all)
    rows = found.rows
    shown = {"all_keys": args.all_keys, "include_unfinished": args.include_unfinished}
    summary = summarise(rows, **shown)
    if summary.empty:
        statuses = ", ".join((render.unfinished(rows) or "no runs", *found.left_out))
        problems = "".join(f"; {row.problem}" for row in rows if row.problem)
        raise GptxError(
            f"no finished run in {_names(paths)}: found {statuses}{problems}; gptx run trains one, "
            f"and repeating the command of a run resumes it"
        )
    summary = render.ordered(summary, args.sort)
    page = render.page(rows, summary, found.left_out)
    if STDOUT not in files.values():
        Console().print(page)
    content = {
        "csv": lambda: variants_csv(summary),
        "runs_csv": lambda: runs_csv(rows, **shown),
        "json": lambda: as_json(rows, summary, **shown),
        "svg": lambda: picture(page, f"gptx.compare {args.study or _names(paths)}"),
    }
    for kind, path in files.items():
        write_output(path, content[kind]())


def _option(kind: str) -> str:
    return f"--{kind.replace('_', '-')}"


def _names(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)


if __name__ == "__main__":
    sys.exit(main())
