"""The differences from the baseline as a frame, as cells of text, and as a table for the terminal."""

import math
import re
from dataclasses import dataclass

import pandas as pd
import rich.console
from rich import box
from rich.console import ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

from gptx.compare.arm_effects import ArmEffect
from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import margin_number, number, remedy, seeds_needed, unit, verdict_of
from gptx.console import VisibleText
from gptx.statistics.verdict import Verdict

_LIMITS = re.compile(r" \((?=\S+ to \S+\)$)")  # before the limits of an interval in one cell with its estimate
_STYLES = {Verdict.BETTER: "bold green", Verdict.WORSE: "red", Verdict.EQUIVALENT: "cyan", Verdict.UNDECIDED: "dim"}
COLUMNS = (
    *("arm", "baseline", "metric", "unit", "mean", "difference", "low", "high", "verdict", "margin", "n", "diverged"),
    *("seeds_needed_if_margin", "seeds_needed_if_equal", "method", "size", "note"),
    *("text_difference", "text_low", "text_high", "on_this_text", "would_help"),
)


def effects_frame(comparison: Comparison) -> pd.DataFrame:
    """One row for each arm, the lowest difference first (for metrics of which more is better, the highest).

    Columns: arm, baseline, metric, unit; ``mean`` of the arm, ``difference`` from the baseline and the limits ``low``
    and ``high`` of its simultaneous 95 % interval, in the unit of `gptx.runs.metrics` without its scale; verdict;
    margin; ``n`` seeds that both have, ``diverged`` runs; the seeds that an undecided arm needs if the true difference
    is the margin, and if there is none; method, size (parameters and FLOPs beyond 1 %), note; the difference over the
    validation text with the limits of its own 95 % interval, whether the verdict holds ``on_this_text`` only, and what
    ``would_help``: more seeds or more text. NaN: unknown.
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
        *_text_record(comparison, effect.arm),
    )


def _text_record(comparison: Comparison, arm: str) -> tuple[object, ...]:
    doubt = comparison.doubt_of(arm)
    if doubt is None or doubt.difference is None or doubt.verdict is None:
        return math.nan, math.nan, math.nan, False, ""
    interval = doubt.difference.interval
    limits = (interval.low, interval.high) if interval else (math.nan, math.nan)
    return doubt.difference.estimate, *limits, doubt.verdict.only_on_this_text, remedy(comparison, arm)


@dataclass(frozen=True)
class EffectCells:
    """The table as text, which every format shows: headings, and rows of as many cells."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def cells_of(comparison: Comparison) -> EffectCells:
    """The cells; columns that are empty in all rows are left out."""
    metric = comparison.metric
    heads = ["arm", f"difference{f' ({metric.unit})' * bool(metric.unit)}", "95 % interval", "verdict", "seeds"]
    rows = [_row(comparison, one) for one in comparison.arms]
    optional = {"seeds needed": [seeds_needed(one.effect) for one in comparison.arms]}
    optional["would help"] = [remedy(comparison, one.arm.name) for one in comparison.arms]
    optional["size"] = [one.size for one in comparison.arms]
    optional["note"] = [one.note for one in comparison.arms]
    shown = {head: cells for head, cells in optional.items() if any(cells)}
    full = [(*row, *(cells[i] for cells in shown.values())) for i, row in enumerate(rows)]
    return EffectCells((*heads, *shown), tuple(full))


def _row(comparison: Comparison, one: ArmEffect) -> tuple[str, ...]:
    effect, metric = one.effect, comparison.metric
    interval = "-"
    if effect.interval:
        low, high = (number(metric, value, signed=True) for value in (effect.interval.low, effect.interval.high))
        interval = f"{low} to {high}"
    figures = (number(metric, effect.estimate, signed=True), interval)
    return effect.arm, *figures, verdict_of(comparison, effect.arm), str(effect.n)


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


def cells_table(cells: EffectCells) -> Table:
    """A table of cells for the terminal, whose text is wrapped where it does not fit and whose numbers are not."""
    out = _empty()
    for i, head in enumerate(cells.heads):
        numbers = bool(cells.rows) and all(_is_number(row[i]) for row in cells.rows)
        title = VisibleText(head.replace(" (", "\n("))  # the unit
        out.add_column(title, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    for row in cells.rows:
        out.add_row(*(VisibleText(_LIMITS.sub("\n(", text)) for text in row))
    return out


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "+-≤"


def _stacked(comparison: Comparison) -> Table:
    out = _empty()
    out.add_column("arm", overflow="fold")
    out.add_column("difference,\n95 % interval", no_wrap=True)
    out.add_column("verdict,\nseeds", overflow="fold")
    for one in comparison.arms:
        name, difference, interval, verdict, n = _row(comparison, one)
        needed = f", needs {seeds}" if (seeds := seeds_needed(one.effect)) else ""
        needed += f"\n{help}" if (help := remedy(comparison, one.arm.name)) else ""
        out.add_row(
            VisibleText("\n".join(filter(None, (name, one.size, one.note)))),
            VisibleText(f"{difference}\n{interval}"),
            VisibleText(verdict, _STYLES[one.effect.verdict]).append(f"\n{n}{needed}", "default not bold"),
        )
    return out


def explained_columns(comparison: Comparison) -> list[str]:
    """What a heading of the table does not explain by itself."""
    out = []
    if any(one.effect.needed for one in comparison.arms):
        margin = f"{margin_number(comparison)}{unit(comparison.metric)}"
        out.append(
            "seeds needed: seeds per arm for a verdict with 80 % power; the first number, if the true difference is "
            f"the margin of {margin}, the second, if it is 0"
        )
    if any(one.verdict and one.verdict.only_on_this_text for one in comparison.text_doubts):
        out.append("on this text: another validation text of this size could change the verdict (bootstrap, 95 %)")
    if any(remedy(comparison, one.arm.name) for one in comparison.arms):
        out.append("would help: what the uncertainty comes from, the few seeds or the finite validation text")
    return out
