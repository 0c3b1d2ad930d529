"""The comparison for the terminal: a rich table that fits the width, and the warnings below it."""

import difflib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import rich.console
from rich import box
from rich.console import ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table

from gptx.compare.comparability import comparable, has_one_seed, warnings
from gptx.compare.formatting import SHOWN, axes, count, figure, plain, titled, variant_name
from gptx.compare.run_rows import RunRow, read_rows, status_counts
from gptx.compare.summary import is_finished, summarise
from gptx.console import Console, VisibleText
from gptx.errors import GptxError
from gptx.runs import journal
from gptx.runs.metrics import METRICS, Metric


def show(
    paths: Iterable[Path | str],
    console: rich.console.Console | None = None,
    *,
    sort: str = "val_bpb",
    all_keys: bool = False,
    include_unfinished: bool = False,
) -> pd.DataFrame:
    """Print the comparison of run folders, or of all runs below the paths.

    Missing, unfinished and damaged runs are reported in the output.

    Returns:
        The summary, empty if there is no run.

    Raises:
        GptxError: ``sort`` is not a column.
    """
    rows = read_rows(run for path in paths for run in (list(journal.runs(Path(path))) or [Path(path)]))
    summary = summarise(rows, all_keys=all_keys, include_unfinished=include_unfinished)
    (console or Console()).print(page(rows, ordered(summary, sort)))
    return summary


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


def page(rows: Sequence[RunRow], summary: pd.DataFrame, left_out: Sequence[str] = ()) -> Group:
    """One table for each corpus, because losses on different texts are not comparable; then warnings and other runs.

    Args:
        left_out: lines about runs that are not among the rows.
    """
    parts: list[RenderableType] = []
    corpora = list(dict.fromkeys(summary["corpus_hash"]))
    for corpus in corpora:
        part, title = titled(summary, str(corpus)) if len(corpora) > 1 else (summary, "")
        parts += [*([VisibleText()] if parts else []), FittingTable(part, title)]
    if len(summary):
        size = f"{count(len(summary), 'variant')}, {count(int(summary['n'].sum()), 'run')}"
        parts.append(_Legend(f"\n{size} · {_spread(summary)}"))
    messages = warnings(rows, summary)
    if messages:
        lines = Table.grid(padding=(0, 1))
        for line in messages:
            lines.add_row(VisibleText("!", "yellow bold"), VisibleText(line, "yellow", overflow="fold"))
        parts += [VisibleText(), lines]
    rest = unfinished(rows)
    if rest:
        where = "unfinished, in separate rows" if "status" in summary else "not in the table"
        parts.append(VisibleText(f"{where}: {rest}"))
    parts += [VisibleText(line) for line in left_out]
    return Group(*parts)


def unfinished(rows: Iterable[RunRow]) -> str:
    """The unfinished runs by status, such as "2 failed, 1 running"."""
    return ", ".join(f"{n} {status}" for status, n in status_counts(rows).items() if status != "finished")


def _spread(summary: pd.DataFrame) -> str:
    """What the deviations are, and why no best is marked."""
    if not (summary["n"] > 1).any():
        return "one seed each, which decides nothing: deviations are unknown, and no best loss or speed is marked"
    spread = "mean ±sample standard deviation over n seeds"
    return (
        f"{spread}; no best loss or speed is marked, because n=1 decides nothing" if has_one_seed(summary) else spread
    )


class _Legend:
    """The line below the table. It explains bold figures where they can be seen."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        bold = " · bold: best mean of the column" if console.is_terminal or console.record else ""
        yield VisibleText(self.text + bold, "dim")


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
            else [VisibleText(plain(row[name])) for name in names]
        )
        named += [VisibleText(str(row[name])) for name in (*extra, "n")]
        out.add_row(*named, *(column[i] for column in cells))
    return out


def can_be_ranked(summary: pd.DataFrame, metric: Metric) -> bool:
    """Whether a best value is marked: not where the rows are not comparable, nor where a variant has one seed and the
    metric varies with the seed, because a best of single runs may be chance."""
    return comparable(summary, metric) and (metric.exact or not has_one_seed(summary))


def _column(summary: pd.DataFrame, metric: Metric, stacked: bool) -> list[VisibleText]:
    """The cells of one metric. The best mean is bold, unless all are equal or a best cannot be told."""
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
