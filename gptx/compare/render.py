"""The comparison for the terminal: a rich table that fits the width, and the warnings below it."""

import difflib
import math

import pandas as pd
import rich.console
from rich import box
from rich.console import ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table

from gptx.compare.comparability import comparable, has_one_seed
from gptx.compare.formatting import SHOWN, axes, figure, plain, short, variant_name
from gptx.compare.summary import is_finished
from gptx.console import VisibleText
from gptx.errors import GptxError
from gptx.runs.metrics import METRICS, Metric


def ordered(summary: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows sorted by a column, best first. A metric may be named without ``_mean``, or by its heading.

    Rows without a value and unfinished runs come last.

    Raises:
        GptxError: no such column.
    """
    plain = [*axes(summary), "n", *(m.key for m in METRICS)]
    names = [*plain, *(f"{m.key}_{what}" for m in METRICS for what in ("mean", "sd"))]
    column = {m.title.lower(): m.key for m in METRICS}.get(column.lower(), column)
    if column not in names:
        close = difflib.get_close_matches(column, names, 1, 0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise GptxError(f"cannot sort by {column!r}{hint}; choose from {', '.join(plain)}")
    metric = next((m for m in METRICS if column in (m.key, f"{m.key}_mean")), None)
    values = list(summary[f"{metric.key}_mean" if metric else column])
    sign = -1 if metric and metric.higher_is_better else 1
    ended = is_finished(summary)

    def place(i: int) -> tuple[bool, int, float, str]:
        value = values[i]
        if value is None or value != value:
            return not ended[i], 2, 0.0, ""
        if isinstance(value, int | float):
            return not ended[i], 0, sign * float(value), ""
        return not ended[i], 1, 0.0, str(value)

    return summary.iloc[sorted(range(len(values)), key=place)]


class FittingTable:
    """Chooses the widest of four layouts that fits the console. The narrowest one splits the table in two."""

    def __init__(self, summary: pd.DataFrame, title: str) -> None:
        self.wide = _layout(summary, title, joined=False, stacked=False)
        self.stacked = _layout(summary, title, joined=False, stacked=True)
        self.joined = _layout(summary, title, joined=True, stacked=True)
        parts = ((title, SHOWN[:3]), ("", SHOWN[3:]))
        self.split = [_layout(summary, head, joined=True, stacked=True, metrics=part) for head, part in parts]

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        if self._needs(console, self.wide).maximum <= width:
            yield self.wide
        elif self._needs(console, self.stacked).maximum <= width:
            yield self.stacked
        elif self._needs(console, self.joined).minimum <= width:
            yield self.joined
        else:
            yield Group(self.split[0], VisibleText(), self.split[1])

    def __rich_measure__(self, console: rich.console.Console, options: ConsoleOptions) -> Measurement:
        return self._needs(console, self.wide)

    @staticmethod
    def _needs(console: rich.console.Console, layout: Table) -> Measurement:
        return Measurement.get(console, console.options.update(max_width=10_000), layout)


def _layout(
    summary: pd.DataFrame, title: str, *, joined: bool, stacked: bool, metrics: tuple[Metric, ...] = SHOWN
) -> Table:
    """One layout. ``joined``: the name in one column. ``stacked``: deviations below means, folded headings."""
    out = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold")
    out.show_edge, out.padding, out.collapse_padding, out.pad_edge = False, (0, 1), True, False
    names = axes(summary)
    if joined:
        out.add_column(VisibleText("attention·pos·\nwindow·strategy"), overflow="fold")
    for name in [] if joined else names:
        out.add_column(VisibleText(name.replace(".", ".\n") if stacked else name), no_wrap=True)
    extra = ["status"] if "status" in summary else []
    for name in (*extra, "n"):
        out.add_column(name, no_wrap=True, justify="right" if name == "n" else "left")
    for metric in metrics:
        head = metric.title.replace(" ", "\n").replace("/", "/\n") if stacked else metric.title
        out.add_column(VisibleText(head, justify="right"), no_wrap=metrics is SHOWN, overflow="fold")
    cells = [_column(summary, metric, stacked) for metric in metrics]
    for i, row in enumerate(summary.to_dict("records")):
        named = (
            [VisibleText(variant_name(row, names, "\n"))]
            if joined
            else [VisibleText(short(name, plain(row[name]))) for name in names]
        )
        named += [VisibleText(str(row[name])) for name in (*extra, "n")]
        out.add_row(*named, *(column[i] for column in cells))
    return out


def can_be_ranked(summary: pd.DataFrame, metric: Metric) -> bool:
    """Whether a best value is marked: not where the rows are not comparable, nor where a variant has one seed and the
    metric varies with the seed, because a best of single runs may be chance."""
    return comparable(summary, metric) and (metric.exact or not has_one_seed(summary))


def _column(summary: pd.DataFrame, metric: Metric, stacked: bool) -> list[VisibleText]:
    """The cells of one metric. The best mean is bold, unless all means are equal or the rows cannot be ranked."""
    means, sds = list(summary[f"{metric.key}_mean"]), list(summary[f"{metric.key}_sd"])
    ended = is_finished(summary)
    values = [mean for mean, end in zip(means, ended, strict=True) if end and not math.isnan(mean)]
    comparable = len(set(values)) > 1 and can_be_ranked(summary, metric)
    best = metric.best(values) if comparable else None
    bold = [end and mean == best for mean, end in zip(means, ended, strict=True)]
    pairs = zip(means, sds, strict=True)
    spreads = [f"±{figure(metric, sd, mean)}" if sd > 0 else "" for mean, sd in pairs]
    texts = [figure(metric, mean) for mean in means]
    widest = max(map(len, spreads), default=0)
    # rich removes blanks at the end of right-aligned text, so the cells are padded on the left
    left = max(max(map(len, texts), default=0), len(metric.title) - widest - 1) if widest and not stacked else 0
    gap = " " if left else "\n"
    cells = []
    for text, spread, good in zip(texts, spreads, bold, strict=True):
        cell = VisibleText(justify="left" if left else "right").append(" " * (left - len(text)))
        cell.append(text, "bold green" if good else "")
        cells.append(cell.append(gap + spread if spread else "", "dim"))
    return cells
