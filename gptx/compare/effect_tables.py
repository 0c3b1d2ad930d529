"""The differences from the baseline as a frame, as cells of text, and as a table for the terminal."""

import math
from dataclasses import dataclass

import pandas as pd
import rich.console
from rich import box
from rich.console import ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

from gptx.compare.comparison import ArmEffect, Comparison
from gptx.compare.conclusion import margin_number, number, seeds_needed, unit
from gptx.console import VisibleText
from gptx.runs.metrics import Metric
from gptx.statistics.verdict import Verdict

_STYLES = {Verdict.BETTER: "bold green", Verdict.WORSE: "red", Verdict.EQUIVALENT: "cyan", Verdict.UNDECIDED: "dim"}
COLUMNS = (
    *("arm", "baseline", "metric", "unit", "mean", "difference", "low", "high", "verdict", "margin", "n", "diverged"),
    *("seeds_needed_if_margin", "seeds_needed_if_equal", "method", "size", "note"),
)


def effects_frame(comparison: Comparison) -> pd.DataFrame:
    """One row for each arm, the lowest difference first (for metrics of which more is better, the highest).

    Columns: arm, baseline, metric, unit; ``mean`` of the arm, ``difference`` from the baseline and the limits ``low``
    and ``high`` of its simultaneous 95 % interval, in the unit of `gptx.runs.metrics` without its scale; verdict;
    margin; ``n`` seeds that both have, ``diverged`` runs; the seeds that an undecided arm needs if the true difference
    is the margin, and if there is none; method, size (parameters and FLOPs beyond 1 %), note. NaN: unknown.
    """
    return pd.DataFrame([_record(comparison, one) for one in comparison.arms], columns=list(COLUMNS))


def _record(comparison: Comparison, one: ArmEffect) -> tuple[object, ...]:
    effect, metric = one.effect, comparison.metric
    limits = (effect.interval.low, effect.interval.high) if effect.interval else (math.nan, math.nan)
    needed = (effect.needed.if_margin, effect.needed.if_zero) if effect.needed else (None, None)
    seeds = (math.nan if n is None else float(n) for n in needed)
    head = (
        effect.arm,
        effect.baseline,
        metric.key,
        metric.unit if metric.scale == 1 else "",
        one.mean,
        effect.estimate,
    )
    return (
        *head,
        *limits,
        *(str(effect.verdict), comparison.margin, effect.n, effect.diverged),
        *seeds,
        *(str(effect.method), one.size, one.note),
    )


@dataclass(frozen=True)
class EffectCells:
    """The table as text, which every format shows: headings, and rows of as many cells."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def cells_of(comparison: Comparison) -> EffectCells:
    """The cells; columns that are empty in all rows are left out."""
    metric = comparison.metric
    heads = ["arm", f"difference{f' ({metric.unit})' * bool(metric.unit)}", "95 % interval", "verdict", "seeds"]
    rows = [_row(metric, one) for one in comparison.arms]
    optional = {"seeds needed": [seeds_needed(one.effect) for one in comparison.arms]}
    optional["size"] = [one.size for one in comparison.arms]
    optional["note"] = [one.note for one in comparison.arms]
    shown = {head: cells for head, cells in optional.items() if any(cells)}
    full = [(*row, *(cells[i] for cells in shown.values())) for i, row in enumerate(rows)]
    return EffectCells((*heads, *shown), tuple(full))


def _row(metric: Metric, one: ArmEffect) -> tuple[str, ...]:
    effect = one.effect
    interval = "-"
    if effect.interval:
        low, high = (number(metric, value, signed=True) for value in (effect.interval.low, effect.interval.high))
        interval = f"{low} to {high}"
    return effect.arm, number(metric, effect.estimate, signed=True), interval, str(effect.verdict), str(effect.n)


class FittingEffects:
    """The table for a terminal: one line for each arm if that fits the console, else stacked cells."""

    def __init__(self, comparison: Comparison) -> None:
        self.wide, self.stacked = _wide(comparison), _stacked(comparison)

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        fits = self.__rich_measure__(console, options).maximum <= options.max_width
        yield self.wide if fits else self.stacked

    def __rich_measure__(self, console: rich.console.Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, console.options.update(max_width=10_000), self.wide)


def _empty() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))


def _wide(comparison: Comparison) -> Table:
    cells, out = cells_of(comparison), _empty()
    for head in cells.heads:
        right = head.startswith("difference") or head == "seeds"
        out.add_column(VisibleText(head), justify="right" if right else "left")
    for row, one in zip(cells.rows, comparison.arms, strict=True):
        styles = [_STYLES[one.effect.verdict] if head == "verdict" else "" for head in cells.heads]
        out.add_row(*(VisibleText(text, style) for text, style in zip(row, styles, strict=True)))
    return out


def _stacked(comparison: Comparison) -> Table:
    out = _empty()
    out.add_column("arm", overflow="fold")
    out.add_column("difference,\n95 % interval", no_wrap=True)
    out.add_column("verdict,\nseeds", overflow="fold")
    for one in comparison.arms:
        name, difference, interval, verdict, n = _row(comparison.metric, one)
        needed = f", needs {seeds}" if (seeds := seeds_needed(one.effect)) else ""
        out.add_row(
            VisibleText("\n".join(filter(None, (name, one.size, one.note)))),
            VisibleText(f"{difference}\n{interval}"),
            VisibleText(verdict, _STYLES[one.effect.verdict]).append(f"\n{n}{needed}", "default not bold"),
        )
    return out


def explained_columns(comparison: Comparison) -> list[str]:
    """What a heading of the table does not explain by itself."""
    if not any(one.effect.needed for one in comparison.arms):
        return []
    margin = f"{margin_number(comparison)}{unit(comparison.metric)}"
    return [
        "seeds needed: seeds per arm for a verdict with 80 % power; the first number, if the true difference is the "
        f"margin of {margin}, the second, if it is 0"
    ]
