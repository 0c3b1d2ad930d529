"""What summarise found, for people: a rich table as wide as the terminal, and the warnings under it."""

import difflib
import math
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gptx import journal
from gptx.compare import table as t
from gptx.compare.table import ALWAYS, METRICS, Metric, Row, value_of
from gptx.errors import GptxError

SHOWN = tuple(metric for metric in METRICS if metric.head)
_EVALUATION = ("evaluate.", "evaluation.", "eval.", "data.val")


def show(
    paths: Iterable[Path | str],
    console: Console | None = None,
    *,
    sort: str = "val_bpb",
    all_keys: bool = False,
    include_unfinished: bool = False,
) -> pd.DataFrame:
    """Print the variants of run folders (or of all runs below the paths); returns the summary, empty if none.

    Missing, unfinished and damaged runs are told of, never raised. GptxError: an unknown ``sort``.
    """
    frame = t.table(run for path in paths for run in (list(journal.runs(Path(path))) or [Path(path)]))
    summary = t.summarise(frame, all_keys=all_keys, include_unfinished=include_unfinished)
    (console or Console(highlight=False)).print(page(frame, ordered(summary, sort)))
    return summary


def ordered(summary: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows by a column, best first (a figure may lack its _mean); no value or no end comes last."""
    plain = [*axes(summary), "n", *(m.key for m in METRICS)]
    names = [*plain, *(f"{m.key}_{what}" for m in METRICS for what in ("mean", "sd"))]
    if column not in names:
        close = difflib.get_close_matches(column, names, 1, 0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise GptxError(f"cannot sort by {column!r}{hint}; choose from {', '.join(plain)}")
    metric = next((m for m in METRICS if column in (m.key, f"{m.key}_mean")), None)
    values = list(summary[f"{metric.key}_mean" if metric else column])
    up = -1 if metric and metric.best is max else 1
    ended = list(summary["status"] == "finished") if "status" in summary else [True] * len(values)

    def place(i: int) -> tuple[bool, int, float, str]:
        value = values[i]
        if value is None or value != value:
            return not ended[i], 2, 0.0, ""
        if isinstance(value, int | float):
            return not ended[i], 0, up * float(value), ""
        return not ended[i], 1, 0.0, str(value)

    return summary.iloc[sorted(range(len(values)), key=place)]


def axes(summary: pd.DataFrame) -> list[str]:
    """The columns that name the variant."""
    columns = [str(column) for column in summary.columns]
    end = columns.index("status") if "status" in columns else columns.index("n")
    return columns[:end]


def page(frame: pd.DataFrame, summary: pd.DataFrame) -> Group:
    """A table for each corpus (figures of different texts do not compare), then warnings and the rest."""
    parts: list[RenderableType] = []
    corpora = list(dict.fromkeys(summary["corpus_hash"]))
    for corpus in corpora:
        part, title = _titled(summary, str(corpus)) if len(corpora) > 1 else (summary, "")
        parts += [*([Text()] if parts else []), Fitting(part, title)]
    if len(summary):
        size = f"{_count(len(summary), 'variant')}, {_count(int(summary['n'].sum()), 'run')}"
        many = (summary["n"] > 1).any()
        spread = "mean ±sample deviation over n seeds" if many else "one seed each: no deviation is known"
        parts.append(Text(f"\n{size} · {spread} · bold: best of the column", "dim"))
    warned = warnings(frame, summary)
    if warned:
        lines = Table.grid(padding=(0, 1))
        for line in warned:
            lines.add_row(Text("!", "yellow bold"), Text(line, "yellow", overflow="fold"))
        parts += [Text(), lines]
    rest = left_out(frame)
    if rest:
        where = "not finished, in rows of their own" if "status" in summary else "not in the table"
        parts.append(Text(f"{where}: {rest}"))
    return Group(*parts)


def _titled(summary: pd.DataFrame, corpus: str) -> tuple[pd.DataFrame, str]:
    """The rows of one corpus; what they all share goes from the columns into the title."""
    part = summary[summary["corpus_hash"] == corpus]
    shared = [k for k in axes(part) if k not in ALWAYS and len({str(value) for value in part[k]}) == 1]
    values = {k: part[k].iloc[0] for k in shared if k not in ("data", "corpus_hash")}
    told = [f"{k}={value}" for k, value in values.items() if value is not None]
    title = " · ".join([str(part["data"].iloc[0] or "corpus"), corpus[:8], *told])
    return part.drop(columns=shared), title


def left_out(frame: pd.DataFrame) -> str:
    """ "2 failed, 1 running": the runs that did not finish."""
    return ", ".join(f"{n} {status}" for status, n in t.counts(frame).items() if status != "finished")


class Fitting:
    """The roomiest layout that the width can hold; nothing is dropped: the last is two tables that fold."""

    def __init__(self, summary: pd.DataFrame, title: str) -> None:
        self.wide = _layout(summary, title, joined=False, stacked=False)
        self.stacked = _layout(summary, title, joined=False, stacked=True)
        self.joined = _layout(summary, title, joined=True, stacked=True)
        parts = ((title, SHOWN[:3]), ("", SHOWN[3:]))
        self.split = [_layout(summary, head, joined=True, stacked=True, metrics=part) for head, part in parts]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width
        if self._needs(console, self.wide).maximum <= room:
            yield self.wide
        elif self._needs(console, self.stacked).maximum <= room:
            yield self.stacked
        elif self._needs(console, self.joined).minimum <= room:
            yield self.joined
        else:
            yield Group(self.split[0], Text(), self.split[1])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return self._needs(console, self.wide)

    @staticmethod
    def _needs(console: Console, layout: Table) -> Measurement:
        return Measurement.get(console, console.options.update(max_width=10_000), layout)


def _layout(
    summary: pd.DataFrame, title: str, *, joined: bool, stacked: bool, metrics: tuple[Metric, ...] = SHOWN
) -> Table:
    """``joined``: the whole name in one column; ``stacked``: deviations under means, headings folded."""
    out = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold")
    out.show_edge, out.padding, out.collapse_padding, out.pad_edge = False, (0, 1), True, False
    names = axes(summary)
    if joined:
        out.add_column(Text("attention·pos·\nwindow·strategy"), overflow="fold")
    for name in [] if joined else names:
        out.add_column(Text(name.replace(".", ".\n") if stacked else name), no_wrap=True)
    extra = ["status"] if "status" in summary else []
    for name in (*extra, "n"):
        out.add_column(name, no_wrap=True, justify="right" if name == "n" else "left")
    for metric in metrics:
        head = metric.head.replace(" ", "\n").replace("/", "/\n") if stacked else metric.head
        out.add_column(Text(head, justify="right"), no_wrap=metrics is SHOWN, overflow="fold")
    cells = [_column(summary, metric, stacked) for metric in metrics]
    for i, row in enumerate(summary.to_dict("records")):
        named = [Text(_joined(row, names, "\n"))] if joined else [Text(_plain(row[name])) for name in names]
        named += [Text(str(row[name])) for name in (*extra, "n")]
        out.add_row(*named, *(column[i] for column in cells))
    return out


def _joined(row: Mapping[Hashable, object], names: list[str], gap: str = " ") -> str:
    """A variant's name in one text, as "gqa·rope·full·ddp model.n_layer=4"; gap: newline makes it narrow."""
    one, two, three, four = (_plain(row[axis]) for axis in ALWAYS)
    name = f"{one}·{two}·{gap.strip(' ')}{three}·{four}"
    rest = [f"{k}={_plain(row[k])}" for k in names if k not in ALWAYS and row[k] is not None]
    return gap.join([name, *rest])


def _column(summary: pd.DataFrame, metric: Metric, stacked: bool) -> list[Text]:
    """The cells of one figure; deviations line up, the best is bold unless all tie or it is unfair."""
    means, sds = list(summary[f"{metric.key}_mean"]), list(summary[f"{metric.key}_sd"])
    ended = list(summary["status"] == "finished") if "status" in summary else [True] * len(means)
    fair = [mean for mean, end in zip(means, ended, strict=True) if end and not math.isnan(mean)]
    best = metric.best(fair) if metric.best and len(set(fair)) > 1 and not _unfair(summary, metric) else None
    bold = [end and mean == best for mean, end in zip(means, ended, strict=True)]
    pairs = zip(means, sds, strict=True)
    spreads = [f"±{human(sd, metric.unit, mean)}" if sd > 0 else "" for mean, sd in pairs]
    texts = [human(mean, metric.unit) for mean in means]
    wide = max(map(len, spreads), default=0)
    # rich cuts blanks at the end of right-justified text, so the cells are placed from the left
    left = max(max(map(len, texts), default=0), len(metric.head) - wide - 1) if wide and not stacked else 0
    gap = " " if left else "\n"
    cells = []
    for text, spread, good in zip(texts, spreads, bold, strict=True):
        cell = Text(justify="left" if left else "right").append(" " * (left - len(text)))
        cell.append(text, "bold green" if good else "")
        cells.append(cell.append(gap + spread if spread else "", "dim"))
    return cells


def _unfair(summary: pd.DataFrame, metric: Metric) -> bool:
    """Loss per token under several tokenizers, speed and memory on several machines: no best among them."""
    if metric.key == "val_loss":
        return len(set(summary["tokenizer_hash"])) > 1
    name = {"tokens_per_s": "hardware", "peak_memory_bytes": "device"}.get(metric.key)
    return name is not None and len({x for found in summary[name] for x in found}) > 1


def human(value: float, unit: str = "", scale_of: float | None = None) -> str:
    """1234567 -> 1.23M, bytes -> 1.23 MB; unit "4" is four decimals; ``scale_of``: at that number's scale."""
    if math.isnan(value):
        return "-"
    if unit == "4":
        return f"{value:.4f}"
    like = abs(value if scale_of is None else scale_of)
    scale, prefix = next((s for s in _SCALES if like >= 0.9995 * s[0]), (1.0, ""))
    size = like / scale
    places = 0 if size >= 99.95 or (scale == 1 and like == int(like)) else 1 if size >= 9.995 else 2
    return f"{value / scale:.{places}f}{' ' if unit else ''}{prefix}{unit}"


_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _plain(value: object) -> str:
    return "" if value is None else str(value)


def warnings(frame: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """What makes the rows of a summary not comparable, or not to be believed: one line each."""
    out = [problem for problem in frame["problem"] if problem]
    repeats = t.counts(frame).get("finished", 0) - len(t.chosen(frame))
    if repeats:
        out.append(f"{_count(repeats, 'run')} left out: same variant and seed as a newer one")
    ended = summary[summary["status"] == "finished"] if "status" in summary else summary
    parts = [part for _, part in ended.groupby("corpus_hash", sort=False)]
    if len(parts) > 1:
        texts = sorted(f"{part['data'].iloc[0]} {str(part['corpus_hash'].iloc[0])[:8]}" for part in parts)
        out.append(f"different corpora ({', '.join(texts)}): figures compare within one table only")
    for part in parts:
        where = f"{part['data'].iloc[0]}: " if len(parts) > 1 else ""
        named = _titled(part, str(part["corpus_hash"].iloc[0]))[0] if len(parts) > 1 else part
        out += [where + line for line in (*_budgets(part), *_seed_sets(named), *_measures(part))]
    return out + _gaps(t.chosen(frame)) + _strategies(t.chosen(frame))


def _gaps(rows: list[Row]) -> list[str]:
    """A figure that some runs lack: its means are over fewer runs than n says."""
    lacks = {m.head: sum(math.isnan(row[m.key]) for row in rows) for m in SHOWN}
    return [f"{head} is missing in {n} of {_count(len(rows), 'run')}" for head, n in lacks.items() if n]


def _budgets(part: pd.DataFrame) -> list[str]:
    out = []
    for name in ("steps", "tokens"):
        found = sorted({x for values in part[name] for x in values})
        if len(found) > 1:
            each = ", ".join(f"{x:,}" for x in found)
            out.append(
                f"not the same budget: {name} {each if len(found) < 5 else f'{found[0]:,} to {found[-1]:,}'}"
            )
    if len(set(part["tokenizer_hash"])) > 1:
        out.append("different tokenizers: val loss is per token and does not compare, bits/byte does")
    held = [name for name in axes(part) if name.startswith(_EVALUATION)]
    if held:
        out.append(f"not the same validation set ({', '.join(held)}): losses do not compare")
    return out


def _seed_sets(part: pd.DataFrame) -> list[str]:
    having: dict[str, list[str]] = {}
    for row in part.to_dict("records"):
        having.setdefault(", ".join(map(str, row["seeds"])), []).append(_joined(row, axes(part)))
    if len(having) < 2:
        return []
    found = sorted(having.items(), key=lambda item: (-len(item[1]), item[0]))
    sets = (f"{seeds} in {', '.join(v) if len(v) < 3 else f'{len(v)} variants'}" for seeds, v in found)
    return [f"not the same seeds: {'; '.join(sets)}"]


def _measures(part: pd.DataFrame) -> list[str]:
    hardware, devices = ({x for found in part[name] for x in found} for name in ("hardware", "device"))
    if len(hardware) < 2:
        return []
    what = "tokens/s and peak memory do" if len(devices) > 1 else "tokens/s does"
    return [f"different hardware ({'; '.join(sorted(hardware))}): {what} not compare"]


def _strategies(rows: list[Row]) -> list[str]:
    """Strategy is a null factor: runs that differ in nothing else must agree up to rounding."""
    alike: dict[Hashable, list[Row]] = {}
    for row in rows:
        if row["status"] == "finished" and row["val_loss"] > 0:
            alike.setdefault((t.key_of(row, without="strategy"), t.seed_of(row)), []).append(row)
    found = []
    for same in alike.values():
        same.sort(key=lambda row: row["val_loss"])
        low, high = same[0], same[-1]
        apart = high["val_loss"] / low["val_loss"] - 1
        if apart > (1e-3 if _fp32(low) else 1e-2):
            found.append((apart, low, high))
    if not found:
        return []
    apart, low, high = max(found, key=lambda one: one[0])
    one, two = value_of(low, "strategy"), value_of(high, "strategy")
    name = "·".join(_plain(value_of(low, axis)) for axis in ALWAYS if axis != "strategy")
    name += f", seed {t.seed_of(low)}"
    text = f"strategy cannot change the loss, yet {two} ends {apart:.2%} above {one} ({name}: "
    more = f", and {_count(len(found) - 1, 'other pair')}" if len(found) > 1 else ""
    return [f"{text}{high['val_loss']:.4f} against {low['val_loss']:.4f}{more}): a bug is suspected"]


def _fp32(row: Row) -> bool:
    said = " ".join(str(v) for k, v in {**row["variant"], **row["config"]}.items() if "precision" in k)
    return "32" in said and not any(word in said for word in ("16", "auto"))
