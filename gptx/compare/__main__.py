"""``gptx compare``: compare the variants under outputs/, on the terminal and in files."""

import argparse
import difflib
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Group
from rich.measure import Measurement

from gptx.cli import Parser, exit_code
from gptx.compare import comparability, render
from gptx.compare.run_rows import RunRow, read_rows, status_counts
from gptx.compare.summary import summarise
from gptx.console import Console
from gptx.errors import GptxError
from gptx.output_files import STDOUT, check_output, output_file, write_output
from gptx.runs import journal
from gptx.terminal import visible

_WEB_FONT = re.compile(r',\s*url\("https:[^)]*\) format\("\w+"\)')  # rich adds fonts from the web to its pictures


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
    parser.add_argument("--include-unfinished", action="store_true", help="show unfinished runs in separate rows")
    for kind, what in (
        ("csv", "raw figures"),
        ("json", "raw figures, runs, warnings"),
        ("svg", "the table as a picture"),
    ):
        parser.add_argument(f"--{kind}", type=output_file, metavar="FILE", help=f"{what}; -: print them, and no table")
    return parser


def _compare(args: argparse.Namespace) -> None:
    files = {kind: getattr(args, kind) for kind in ("csv", "json", "svg") if getattr(args, kind)}
    for kind, path in files.items():
        check_output(f"--{kind}", path)
    if (printed := list(files.values()).count(STDOUT)) > 1:
        raise GptxError(f"{printed} of --csv, --json and --svg print to stdout; give the others the name of a file")
    paths = args.paths or [Path("outputs")]
    rows = _of_study(read_rows(_runs(paths)), args.study)
    summary = summarise(rows, all_keys=args.all_keys, include_unfinished=args.include_unfinished)
    if summary.empty:
        found = render.unfinished(rows) or "no runs"
        problems = "".join(f"; {row.problem}" for row in rows if row.problem)
        raise GptxError(
            f"no finished run in {_names(paths)}: found {found}{problems}; gptx run trains one, "
            f"and repeating the command of a run resumes it"
        )
    summary = render.ordered(summary, args.sort)
    page = render.page(rows, summary)
    if STDOUT not in files.values():
        Console().print(page)
    content = {
        "csv": lambda: _csv(summary),
        "json": lambda: _json(rows, summary),
        "svg": lambda: _svg(page, f"gptx.compare {args.study or _names(paths)}"),
    }
    for kind, path in files.items():
        write_output(path, content[kind]())


def _runs(paths: list[Path]) -> list[Path]:
    for path in paths:
        if not path.exists():
            raise GptxError(f"the folder {path} does not exist; expected a run folder or one that contains runs")
    return [run for path in paths for run in journal.runs(path)]


def _of_study(rows: list[RunRow], study: str | None) -> list[RunRow]:
    if study is None:
        return rows
    known = sorted({row.result.study for row in rows if row.result.study})
    if study in known:
        return [row for row in rows if row.result.study in (study, "")]  # "": damaged, named in a warning
    close = difflib.get_close_matches(study, known, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise GptxError(f"no study {study!r}{hint}; there are {', '.join(known) or 'none'}")


def _names(paths: list[Path]) -> str:
    return ", ".join(str(path) for path in paths)


def _csv(summary: pd.DataFrame) -> str:
    plain = summary.drop(columns="runs")
    for name in ("seeds", "hardware", "device", "steps", "tokens"):
        if name in plain:
            plain[name] = [("; " if name == "hardware" else " ").join(map(str, found)) for found in plain[name]]
    return str(plain.to_csv(index=False))


def _json(rows: list[RunRow], summary: pd.DataFrame) -> str:
    variants = summary.to_dict("records")
    clean = [{key: None if value != value else value for key, value in row.items()} for row in variants]
    content = {"variants": clean, "runs": status_counts(rows), "warnings": comparability.warnings(rows, summary)}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _svg(page: Group, title: str) -> str:
    """The table as a picture, in the widest layout."""
    wide = Console(width=1000)
    fits = [
        Measurement.get(wide, wide.options, part).maximum
        for part in page.renderables
        if isinstance(part, render.FittingTable)
    ]
    canvas = Console(record=True, file=io.StringIO(), width=max(80, *fits), legacy_windows=False)
    canvas.print(page)
    return _WEB_FONT.sub("", canvas.export_svg(title=visible(title)))


if __name__ == "__main__":
    sys.exit(main())
