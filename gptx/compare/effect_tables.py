"""The differences from the baseline as tables: a frame, for the terminal, Markdown, LaTeX and a notebook."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.table import Table

from gptx.compare.comparison import ArmEffect, Comparison
from gptx.compare.conclusion import noise_floor, notes, number, seeds_needed, sentence, unit
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
        *(str(effect.method), one.size, effect.note),
    )


@dataclass(frozen=True)
class _Cells:
    """The table as text: what every format shows."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _cells(comparison: Comparison) -> _Cells:
    metric = comparison.metric
    heads = ["arm", f"difference{f' ({metric.unit})' * bool(metric.unit)}", "95 % interval", "verdict", "seeds"]
    rows = [_row(metric, one) for one in comparison.arms]
    optional = {"seeds needed": [seeds_needed(one.effect) for one in comparison.arms]}
    optional["size"] = [one.size for one in comparison.arms]
    optional["note"] = [one.effect.note for one in comparison.arms]
    shown = {head: cells for head, cells in optional.items() if any(cells)}
    full = [(*row, *(cells[i] for cells in shown.values())) for i, row in enumerate(rows)]
    return _Cells((*heads, *shown), tuple(full))


def _row(metric: Metric, one: ArmEffect) -> tuple[str, ...]:
    effect = one.effect
    interval = "-"
    if effect.interval:
        low, high = (number(metric, value, signed=True) for value in (effect.interval.low, effect.interval.high))
        interval = f"{low} to {high}"
    return effect.arm, number(metric, effect.estimate, signed=True), interval, str(effect.verdict), str(effect.n)


def terminal_table(comparison: Comparison) -> Table:
    """The table for a terminal; long names and notes are folded."""
    cells = _cells(comparison)
    out = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for head in cells.heads:
        right = head.startswith("difference") or head == "seeds"
        out.add_column(VisibleText(head), justify="right" if right else "left", overflow="fold")
    for row, one in zip(cells.rows, comparison.arms, strict=True):
        styles = [_STYLES[one.effect.verdict] if head == "verdict" else "" for head in cells.heads]
        out.add_row(*(VisibleText(text, style) for text, style in zip(row, styles, strict=True)))
    return out


def explained_columns(comparison: Comparison) -> list[str]:
    """What a heading of the table does not explain by itself."""
    if not any(one.effect.needed for one in comparison.arms):
        return []
    margin = f"{number(comparison.metric, comparison.margin)}{unit(comparison.metric)}"
    return [
        f"seeds needed: seeds an arm for a verdict with 80 % power, if the true difference is the margin of {margin} / "
        "if it is 0"
    ]


def as_markdown(comparison: Comparison) -> str:
    """The conclusion, the table and the notes in Markdown."""
    cells = _cells(comparison)
    rows = [cells.heads, tuple("---" for _ in cells.heads), *cells.rows]
    table = "\n".join(f"| {' | '.join(_escaped(text, '|') for text in row)} |" for row in rows)
    return "\n\n".join([*_paragraphs(comparison), table, _list(comparison)]) + "\n"


def _list(comparison: Comparison) -> str:
    return "\n".join(f"- {line}" for line in (*notes(comparison), *explained_columns(comparison), *comparison.excluded))


def _paragraphs(comparison: Comparison) -> list[str]:
    return [text for text in (noise_floor(comparison), sentence(comparison)) if text]


def _escaped(text: str, marks: str) -> str:
    return "".join(f"\\{letter}" if letter in marks else letter for letter in text)


def as_latex(comparison: Comparison) -> str:
    """The table in LaTeX, with the conclusion as its caption; it needs the package booktabs."""
    cells = _cells(comparison)
    body = "\n".join(f"{' & '.join(map(_latex, row))} \\\\" for row in cells.rows)
    caption = " ".join(_latex(line) for line in (*_paragraphs(comparison), *map(_sentence, notes(comparison))))
    columns = "l" + "r" * (len(cells.heads) - 1)
    return (
        f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{' & '.join(map(_latex, cells.heads))} \\\\\n\\midrule\n"
        f"{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {"·": r"\textperiodcentered{}", ">": r"$>$", "<": r"$<$"}
    plain = "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
    return f"${plain}$" if plain[:1] in "+-" and plain[1:2].isdigit() and " " not in plain else plain


def as_html(comparison: Comparison) -> str:
    """The conclusion, the table and the notes in HTML, for a notebook."""
    cells = _cells(comparison)
    head = _html_row(cells.heads, "th")
    body = "".join(_html_row(row, "td") for row in cells.rows)
    texts = "".join(f"<p>{html.escape(text)}</p>" for text in _paragraphs(comparison))
    lines = (*notes(comparison), *explained_columns(comparison), *comparison.excluded, *comparison.warnings)
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"{texts}<table><thead>{head}</thead><tbody>{body}</tbody></table><ul>{listed}</ul>"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in cells)}</tr>"
