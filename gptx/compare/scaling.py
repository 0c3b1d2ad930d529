"""``python -m gptx.compare.scaling``: the power law of the loss over sizes and texts, fitted to finished runs."""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from gptx.cli import Parser, exit_code
from gptx.compare.powerlaw import EXPONENTS, Floats, Law, bootstrap, check, fit
from gptx.compare.render import left_out
from gptx.compare.table import Row, chosen, key_of, naming, table, value_of
from gptx.compare.text import human
from gptx.errors import GptxError
from gptx.runs.journal import runs

# What a study of scaling may vary. Of several rates at one size and length the best counts.
OF_SIZE = {"model", "model.n_layer", "model.n_head", "model.d_model"}
OF_LENGTH = {"trainer.max_steps", "trainer.batch_size", "trainer.eval_every", "optim.lr"}


@dataclass(frozen=True)
class Fit:
    """A law, what it was fitted to, and the laws of the bootstrap: none where the runs are too few for it."""

    sizes: Floats
    tokens: Floats
    losses: Floats
    law: Law
    drawn: list[Law]

    @property
    def flops(self) -> Floats:
        return 6 * self.sizes * self.tokens

    def interval(self, of: Callable[[Law], float]) -> tuple[float, float]:
        """The middle 95 % of what the drawn laws say; nan where there are none."""
        if not self.drawn:
            return math.nan, math.nan
        low, high = np.percentile([of(law) for law in self.drawn], [2.5, 97.5])
        return float(low), float(high)

    def beyond(self, size: float, tokens: float) -> bool:
        inside = self.sizes.min() <= size <= self.sizes.max() and self.tokens.min() <= tokens <= self.tokens.max()
        return not inside


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code(lambda: _command(_parser().parse_args(argv)))


def _parser() -> Parser:
    parser = Parser("python -m gptx.compare.scaling", description=__doc__, allow_abbrev=False)
    parser.add_argument("path", nargs="?", type=Path, default=Path("outputs/scaling"), help="folder (outputs/scaling)")
    parser.add_argument("--flops", nargs="+", type=flops, default=[], metavar="C", help="budgets to split (1e15)")
    parser.add_argument("--bootstrap", type=int, default=200, metavar="N", help="draws behind the intervals (200)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="curves and the best split, drawn")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the same as a bitmap")
    return parser


def flops(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


def _command(args: argparse.Namespace) -> None:
    files = {kind: file for kind, file in (("svg", args.svg), ("png", args.png)) if file}
    for file in files.values():
        if not file.parent.is_dir():
            raise GptxError(f"{file}: there is no folder {file.parent}")
    if args.bootstrap < 20:
        raise GptxError(f"--bootstrap {args.bootstrap}: expected 20 draws or more, else there is no 95 % of them")
    rows, rest = _rows(args.path)
    found = fitted(rows, args.bootstrap)
    console = Console(highlight=False)
    sizes, lengths = len(set(found.sizes)), len(set(found.tokens))
    print(f"{len(rows)} runs, {sizes} sizes x {lengths} lengths of text{rest and f'; left out: {rest}'}")
    print("loss = E + A / N^a + B / D^b; N: all parameters, D: tokens, C = 6 N D: FLOPs\n")
    for part in (law_table(found), budget_table(found, args.flops), residual_table(found)):
        console.print(part, "")
    for line in remarks(found):
        print(f"! {line}")
    for kind, file in files.items():
        from gptx.compare.scaling_picture import draw

        draw(found, file, kind)
        print(f" wrote {file}")


def _rows(path: Path) -> tuple[list[Row], str]:
    """The finished runs that a law may be fitted to, and what was left out."""
    if not path.exists():
        raise GptxError(f"no folder {path}: python -m gptx.run -m experiment=scaling makes outputs/scaling")
    frame = table(runs(path))
    rows = [row for row in chosen(frame) if row["val_loss"] == row["val_loss"]]
    if not rows:
        raise GptxError(f"no finished run in {path}: found {left_out(frame) or 'no runs'}")
    varied = [name for name in naming(rows) if len({str(value_of(row, name)) for row in rows}) > 1]
    if strange := [name for name in varied if name not in OF_SIZE | OF_LENGTH]:
        raise GptxError(
            f"the runs in {path} differ in {', '.join(strange)} besides size and length: "
            "one law is of one variant; give the folder of one study"
        )
    kept = _best_rates(rows)
    slower = f"{len(rows) - len(kept)} at rates that were not the best" if len(kept) < len(rows) else ""
    return kept, ", ".join(filter(None, [left_out(frame), slower]))


def _best_rates(rows: list[Row]) -> list[Row]:
    """Of several rates at one size and length those runs whose rate has the lowest mean loss."""
    losses: dict[tuple[float, float], dict[str, list[float]]] = {}
    for row in rows:
        arms = losses.setdefault((row["n_params"], row["tokens"]), {})
        arms.setdefault(key_of(row), []).append(row["val_loss"])
    best = {min(arms, key=lambda key: statistics.mean(arms[key])) for arms in losses.values()}
    return [row for row in rows if key_of(row) in best]


def fitted(rows: list[Row], times: int) -> Fit:
    """GptxError: the runs are of too few sizes or lengths."""
    sizes, tokens, losses = (np.array([float(row[key]) for row in rows]) for key in ("n_params", "tokens", "val_loss"))
    check(sizes, tokens)
    law = fit(sizes, tokens, losses)
    return Fit(sizes, tokens, losses, law, bootstrap(sizes, tokens, losses, law, times))


def law_table(found: Fit) -> Table:
    shown = Table("", "fitted", "95 % interval (bootstrap over runs)", box=None, pad_edge=False)
    rows: dict[str, Callable[[Law], float]] = {name: attrgetter(name) for name in asdict(found.law)}
    rows |= {"best N ~ C^": lambda law: law.growth, "best D ~ C^": lambda law: 1 - law.growth}
    for name, of in rows.items():
        low, high = found.interval(of)
        shown.add_row(name, f"{of(found.law):.4g}", f"{low:.4g} to {high:.4g}" if found.drawn else "unknown")
    return shown


def budgets(found: Fit) -> list[float]:
    """The least and most that a run took, what lies between, and 10 and 100 times the most."""
    low, high = found.flops.min(), found.flops.max()
    return [low, (low * high) ** 0.5, high, 10 * high, 100 * high]


def budget_table(found: Fit, given: Sequence[float]) -> Table:
    shown = Table("FLOPs", "best N", "best D", "D / N", "loss", "", box=None, pad_edge=False)
    for flops in given or budgets(found):
        size, tokens = found.law.best(flops)
        mark = "beyond what was measured" if found.beyond(size, tokens) else ""
        loss = float(found.law.loss(size, tokens))
        shown.add_row(f"{flops:.2e}", human(size), human(tokens), f"{tokens / size:.3g}", f"{loss:.4f}", mark)
    return shown


def residual_table(found: Fit) -> Table:
    """How far, in per cent, runs end above the law: sizes down, lengths across."""
    off = 100 * (found.losses / found.law.loss(found.sizes, found.tokens) - 1)
    lengths = sorted(set(found.tokens))
    shown = Table("off by, %", *(f"D {human(length)}" for length in lengths), box=None, pad_edge=False)
    for size in sorted(set(found.sizes)):
        cells = [off[(found.sizes == size) & (found.tokens == length)] for length in lengths]
        shown.add_row(f"N {human(size)}", *(f"{cell.mean():+.2f}" if len(cell) else "" for cell in cells))
    return shown


def remarks(found: Fit) -> list[str]:
    """What a reader has to be warned of."""
    said = [
        f"{name} = {value:g} is the edge of what is tried: these runs do not determine it"
        for name, value in (("a", found.law.a), ("b", found.law.b))
        if min(abs(value - edge) for edge in EXPONENTS) < 1e-6
    ]
    if not found.drawn:
        said.append(f"{len(found.losses)} runs are too few for intervals: most draws from them fit no law")
    wide = [name for name in ("a", "b") if np.divide(*found.interval(attrgetter(name))) < 0.5]
    if wide:
        said.append(f"the interval of {' and '.join(wide)} is wider than a factor of 2: more sizes, lengths or seeds")
    if found.interval(attrgetter("E"))[0] < 0.01 * found.losses.min():
        said.append("E cannot be told from 0: no run is near where the loss would end")
    if (off := float(np.sqrt(np.mean((found.losses / found.law.loss(found.sizes, found.tokens) - 1) ** 2)))) > 0.02:
        said.append(f"the runs lie {off:.1%} off the law: it does not hold so early, or at one rate for all sizes")
    return said


if __name__ == "__main__":
    sys.exit(main())
