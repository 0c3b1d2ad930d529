"""``python -m gptx.compare.scaling``: fit the loss of finished runs as a power law of model size and tokens."""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

import numpy as np
from rich.table import Table

from gptx.cli import Parser, exit_code
from gptx.compare.powerlaw import EXPONENTS, FittedLaw, Law, bootstrap, check, fit
from gptx.compare.run_rows import RunRow, read_rows, selected, unfinished
from gptx.compare.summary import distinguishing_keys
from gptx.console import Console
from gptx.errors import GptxError
from gptx.runs.journal import runs
from gptx.runs.units import human
from gptx.terminal import echo

# The keys that runs of a scaling study may differ in. Of the learning rates at one size and length the best is used.
SIZE_KEYS = {"model", "model.n_layer", "model.n_head", "model.d_model"}
LENGTH_KEYS = {"trainer.max_steps", "trainer.batch_size", "trainer.eval_every", "optim.lr"}


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _command(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("python -m gptx.compare.scaling", description=__doc__)
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        default=Path("outputs/scaling"),
        help="folder with runs (default: outputs/scaling)",
    )
    parser.add_argument(
        "--flops",
        nargs="+",
        type=flops,
        default=[],
        metavar="C",
        help="compute budgets in FLOPs, to divide between model size and tokens, e.g. 1e15",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=200, metavar="N", help="bootstrap samples for the intervals (default: 200)"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the curves and the best split as SVG")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the same picture as PNG")
    return parser


def flops(text: str) -> float:
    """Parse a positive finite number."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


def _command(args: argparse.Namespace) -> None:
    files = {kind: file for kind, file in (("svg", args.svg), ("png", args.png)) if file}
    for file in files.values():
        if not file.parent.is_dir():
            raise GptxError(f"cannot write {file}: the folder {file.parent} does not exist")
    if args.bootstrap < 20:
        raise GptxError(f"--bootstrap {args.bootstrap}: expected at least 20 samples for a 95 % interval")
    rows, left_out = _rows(args.path)
    fitted = fit_runs(rows, args.bootstrap)
    console = Console()
    sizes, lengths = len(set(fitted.sizes)), len(set(fitted.tokens))
    echo(f"{len(rows)} runs, {sizes} model sizes x {lengths} token counts{left_out and f'; left out: {left_out}'}")
    echo("loss = E + A / N^a + B / D^b; N: parameters, D: training tokens, C = 6 N D: FLOPs\n")
    for part in (law_table(fitted), budget_table(fitted, args.flops), residual_table(fitted)):
        console.print(part, "")
    for line in remarks(fitted):
        echo(f"! {line}")
    for kind, file in files.items():
        from gptx.compare.scaling_picture import draw

        draw(fitted, file, kind)
        echo(f" wrote {file}")


def _rows(path: Path) -> tuple[list[RunRow], str]:
    """The finished runs of the best learning rates, and a description of the runs that were left out."""
    if not path.exists():
        raise GptxError(f"the folder {path} does not exist; gptx sweep experiment=scaling makes outputs/scaling")
    every = read_rows(runs(path))
    rows = [row for row in selected(every) if not math.isnan(row.metrics["val_loss"])]
    if not rows:
        raise GptxError(f"no finished run in {path}: found {unfinished(every) or 'no runs'}")
    varied = [name for name in distinguishing_keys(rows) if len({str(row.value(name)) for row in rows}) > 1]
    if others := [name for name in varied if name not in SIZE_KEYS | LENGTH_KEYS]:
        raise GptxError(
            f"the runs in {path} differ in {', '.join(others)} besides size and length; "
            "a law describes one variant: give the folder of one study"
        )
    best = _best_rates(rows)
    worse = f"{len(rows) - len(best)} at rates that were not the best" if len(best) < len(rows) else ""
    return best, ", ".join(filter(None, [unfinished(every), worse]))


def _best_rates(rows: list[RunRow]) -> list[RunRow]:
    """The runs at the learning rate with the lowest mean loss, for each size and length."""
    losses: dict[tuple[float, float], dict[str, list[float]]] = {}
    for row in rows:
        arms = losses.setdefault((row.metrics["n_params"], row.tokens), {})
        arms.setdefault(row.key(), []).append(row.metrics["val_loss"])
    best = {min(arms, key=lambda key: statistics.mean(arms[key])) for arms in losses.values()}
    return [row for row in rows if row.key() in best]


def fit_runs(rows: list[RunRow], times: int) -> FittedLaw:
    """Fit a law to runs, with ``times`` bootstrap samples.

    Raises:
        GptxError: too few sizes or lengths.
    """
    points = np.array([[row.metrics["n_params"], row.tokens, row.metrics["val_loss"]] for row in rows])
    sizes, tokens, losses = points.T
    check(sizes, tokens)
    law = fit(sizes, tokens, losses)
    return FittedLaw(sizes, tokens, losses, law, bootstrap(sizes, tokens, losses, law, times))


def law_table(fitted: FittedLaw) -> Table:
    """The coefficients with their intervals."""
    shown = Table("", "fitted", "95 % interval (bootstrap over runs)", box=None, pad_edge=False)
    rows: dict[str, Callable[[Law], float]] = {name: attrgetter(name) for name in asdict(fitted.law)}
    rows |= {"best N ~ C^": lambda law: law.growth, "best D ~ C^": lambda law: 1 - law.growth}
    for name, of in rows.items():
        low, high = fitted.interval(of)
        shown.add_row(name, f"{of(fitted.law):.4g}", f"{low:.4g} to {high:.4g}" if fitted.samples else "unknown")
    return shown


def budgets(fitted: FittedLaw) -> list[float]:
    """The smallest and largest compute of the runs, their geometric mean, and 10 and 100 times the largest."""
    low, high = fitted.flops.min(), fitted.flops.max()
    return [low, (low * high) ** 0.5, high, 10 * high, 100 * high]


def budget_table(fitted: FittedLaw, given: Sequence[float]) -> Table:
    """The best split of each compute budget."""
    shown = Table("FLOPs", "best N", "best D", "D / N", "loss", "", box=None, pad_edge=False)
    for flops in given or budgets(fitted):
        size, tokens = fitted.law.best(flops)
        mark = "outside the measured range" if fitted.extrapolates(size, tokens) else ""
        loss = float(fitted.law.loss(size, tokens))
        shown.add_row(f"{flops:.2e}", human(size), human(tokens), f"{tokens / size:.3g}", f"{loss:.4f}", mark)
    return shown


def residual_table(fitted: FittedLaw) -> Table:
    """Deviation of the measured loss from the law in percent: one row a size, one column a length."""
    deviation = 100 * (fitted.losses / fitted.law.loss(fitted.sizes, fitted.tokens) - 1)
    lengths = sorted(set(fitted.tokens))
    shown = Table("deviation, %", *(f"D {human(length)}" for length in lengths), box=None, pad_edge=False)
    for size in sorted(set(fitted.sizes)):
        cells = [deviation[(fitted.sizes == size) & (fitted.tokens == length)] for length in lengths]
        shown.add_row(f"N {human(size)}", *(f"{cell.mean():+.2f}" if len(cell) else "" for cell in cells))
    return shown


def remarks(fitted: FittedLaw) -> list[str]:
    """Warnings about the fit, one line each."""
    warnings = [
        f"{name} = {value:g} is at the bound of the search: these runs do not determine it"
        for name, value in (("a", fitted.law.a), ("b", fitted.law.b))
        if min(abs(value - edge) for edge in EXPONENTS) < 1e-6
    ]
    if not fitted.samples:
        warnings.append(
            f"{len(fitted.losses)} runs are too few for intervals: most bootstrap samples do not determine a law"
        )
    wide = [name for name in ("a", "b") if np.divide(*fitted.interval(attrgetter(name))) < 0.5]
    if wide:
        warnings.append(
            f"the interval of {' and '.join(wide)} is wider than a factor of 2: add sizes, lengths or seeds"
        )
    if fitted.interval(attrgetter("E"))[0] < 0.01 * fitted.losses.min():
        warnings.append("E cannot be distinguished from 0: no run is near the lowest possible loss")
    if (
        deviation := float(np.sqrt(np.mean((fitted.losses / fitted.law.loss(fitted.sizes, fitted.tokens) - 1) ** 2)))
    ) > 0.02:
        warnings.append(
            f"the runs deviate from the fitted law by {deviation:.1%}: too short, or some with a wrong learning rate"
        )
    return warnings


if __name__ == "__main__":
    sys.exit(main())
