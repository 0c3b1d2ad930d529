"""``gptx compare``: compare the variants under outputs/, on the terminal and in files."""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gptx.cli import Parser, exit_code
from gptx.compare.comparison import compare
from gptx.compare.curves_picture import curves_picture
from gptx.compare.effect_texts import as_latex, as_markdown
from gptx.compare.files import as_json, effects_csv, factors_csv, picture, runs_csv, variants_csv
from gptx.compare.findings import CostUnit
from gptx.compare.forest import forest
from gptx.compare.interaction_picture import interactions
from gptx.compare.page import page
from gptx.compare.pareto_picture import pareto
from gptx.compare.picture import check_figure
from gptx.compare.report.html_report import html_report
from gptx.compare.run_rows import unfinished
from gptx.compare.saved_tables import saved_files
from gptx.compare.sections import SectionName
from gptx.compare.selection import FoundRuns, find_runs
from gptx.console import Console
from gptx.errors import GptxError
from gptx.output_files import STDOUT, check_output, output_file, write_output

_FILES = {
    "csv": "raw figures, one row for each variant",
    "runs_csv": "raw figures, one row for each run and seed",
    "effects_csv": "differences from the baseline, one row for each arm",
    "factors_csv": "effects of factors and interactions, where the arms form a grid",
    "json": "the conclusion, all tables, runs, warnings",
    "markdown": "the conclusion and the table of differences in Markdown",
    "latex": "the same in LaTeX",
    "svg": "all of the output as a picture",
    "html": "a report with interactive charts, which needs no network (about 5 MB)",
}
_PICTURES = {
    "figure": "the differences and their intervals",
    "interactions": "how two factors act together, where the arms form a grid",
    "pareto": "the metric against each cost, with Pareto fronts",
    "curves": "validation losses during training, with a band over the seeds",
}
_SECTIONS = {
    SectionName.FACTORS: "all effects of factors and interactions, where the arms form a grid",
    SectionName.PAIRS: "also the differences of all pairs of arms",
    SectionName.REACH: "also when each arm reaches the baseline's final loss",
    SectionName.COSTS: "also costs, with Pareto fronts",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _compare(_parser().parse_args(given), shlex.join(["gptx", "compare", *given])))


def _parser() -> Parser:
    parser = Parser("gptx compare", description=__doc__)
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="run folders, folders that contain them, or a folder that --export wrote (default: outputs)",
    )
    parser.add_argument("--study", metavar="NAME", help="only the runs of this study")
    parser.add_argument(
        "--sort", metavar="COLUMN", default="val_bpb", help="sort by this column, best first (default: val_bpb)"
    )
    parser.add_argument(
        "--baseline",
        default="",
        metavar="ARM",
        help='the arm that others are compared with, such as "attention=mha pos=rope" (default: that of the study, or '
        "else the default options, or else the first arm)",
    )
    parser.add_argument(
        "--margin",
        type=_margin,
        metavar="X",
        help="differences below X do not matter, in the unit of the table (default: that of the study, or else 0.01 "
        "nats per token for losses)",
    )
    parser.add_argument(
        "--metric", default="", metavar="KEY", help="compare by this metric, such as tokens_per_s (default: val_loss)"
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="write tables of the runs, from which gptx compare DIR shows the same",
    )
    parser.add_argument("--all-keys", action="store_true", help="also show keys that only differ between options")
    parser.add_argument("--all", action="store_true", help="also show runs with which a sweep chose a rate or an arm")
    parser.add_argument("--include-unfinished", action="store_true", help="show unfinished runs in separate rows")
    for name, what in _SECTIONS.items():
        parser.add_argument(_option(name), action="store_true", help=f"{what} (on the terminal, in Markdown and LaTeX)")
    for kind, what in _FILES.items():
        parser.add_argument(
            _option(kind), type=output_file, metavar="FILE", help=f"{what}; -: print them, and no table"
        )
    for kind, what in _PICTURES.items():
        parser.add_argument(_option(kind), type=Path, metavar="FILE", help=f"a picture, .png, .svg or .pdf: {what}")
    parser.add_argument(
        "--against",
        type=CostUnit,
        choices=list(CostUnit),
        default=CostUnit.STEPS,
        help="the axis of --curves (default: steps)",
    )
    return parser


def _compare(args: argparse.Namespace, command: str) -> None:
    """``command``: the command itself, for the report."""
    files = {kind: getattr(args, kind) for kind in (*_FILES, *_PICTURES) if getattr(args, kind)}
    for kind, path in files.items():
        check_output(_option(kind), path)
    if args.export and not args.export.is_dir():
        check_output("--export", args.export / "runs.csv" if args.export.exists() else args.export)
    kinds = {name: check_figure(_option(name), path) for name, path in files.items() if name in _PICTURES}
    names = [name for name in _SECTIONS if getattr(args, name)]
    if len(printed := [_option(kind) for kind, path in files.items() if path == STDOUT]) > 1:
        raise GptxError(f"{' and '.join(printed)} print to stdout; give all but one the name of a file")
    paths = args.paths or [Path("outputs")]
    found = find_runs(paths, args.study, all_runs=args.all)
    comparison = compare(
        found,
        baseline=args.baseline,
        margin=args.margin,
        metric=args.metric,
        all_keys=args.all_keys,
        include_unfinished=args.include_unfinished,
    )
    if comparison.variants.empty:
        raise GptxError(_nothing(found, paths))
    shown = page(comparison, args.sort, names)
    if STDOUT not in files.values():
        Console().print(shown)
    content: dict[str, Callable[[], str | bytes]] = {
        "csv": lambda: variants_csv(comparison),
        "runs_csv": lambda: runs_csv(comparison),
        "effects_csv": lambda: effects_csv(comparison),
        "factors_csv": lambda: factors_csv(comparison),
        "json": lambda: as_json(comparison),
        "markdown": lambda: as_markdown(comparison, names),
        "latex": lambda: as_latex(comparison, names),
        "figure": lambda: forest(comparison, kinds["figure"]),
        "interactions": lambda: interactions(comparison, kinds["interactions"]),
        "pareto": lambda: pareto(comparison, kinds["pareto"]),
        "curves": lambda: curves_picture(comparison, args.against, kinds["curves"]),
        "svg": lambda: picture(shown, f"gptx.compare {args.study or _names(paths)}"),
        "html": lambda: html_report(comparison, args.study or _names(paths), [command]),
    }
    for kind, path in files.items():
        write_output(path, content[kind]())
    if args.export:
        args.export.mkdir(exist_ok=True)
        for name, text in saved_files(found.tables()).items():
            write_output(args.export / name, text)


def _nothing(found: FoundRuns, paths: Sequence[Path]) -> str:
    statuses = ", ".join((unfinished(found.rows) or "no runs", *found.left_out))
    problems = "".join(f"; {row.problem}" for row in found.rows if row.problem)
    return (
        f"no finished run in {_names(paths)}: found {statuses}{problems}; gptx run trains one, "
        f"and repeating the command of a run resumes it"
    )


def _margin(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def _option(kind: str) -> str:
    return f"--{kind.replace('_', '-')}"


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)


if __name__ == "__main__":
    sys.exit(main())
