"""The tables of a report: cells of text, each with the value by which its column is sorted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from gptx.compare.comparison import Comparison
from gptx.compare.effect_tables import cells_of
from gptx.compare.findings import ArmReach, CostUnit
from gptx.compare.formatting import SHOWN, axes, figure, plain, short
from gptx.compare.run_rows import RunRow
from gptx.runs.metrics import Metric


@dataclass(frozen=True)
class SortedCell:
    """A cell. ``key``: what its column is sorted by; None: last in both directions."""

    text: str
    key: float | str | None
    title: str = ""


@dataclass(frozen=True)
class SortableTable:
    """Headings, and rows of as many cells. ``name``: an id in the page."""

    name: str
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[SortedCell, ...], ...]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """For each column, ``number`` if it has numbers only, else ``text``."""
        columns = zip(*([cell.key for cell in row] for row in self.rows), strict=True)
        kinds = [{type(key) for key in column if key is not None} for column in columns]
        return tuple("number" if kind == {float} else "text" for kind in kinds) or ("text",) * len(self.heads)


def text_cell(text: object, title: str = "") -> SortedCell:
    """A cell of text; empty cells are sorted last."""
    return SortedCell(plain(text), plain(text).lower() or None, title)


def number_cell(value: float, text: str) -> SortedCell:
    """A cell with a number; NaN is shown as a dash and sorted last."""
    return SortedCell("–", None) if math.isnan(value) else SortedCell(text, float(value))


def effects_table(comparison: Comparison) -> SortableTable:
    """The differences from the baseline."""
    cells = cells_of(comparison)
    rows = []
    for one, texts in zip(comparison.arms, cells.rows, strict=True):
        effect = one.effect
        numbers = {1: effect.estimate, 2: effect.interval.low if effect.interval else math.nan, 4: float(effect.n)}
        row = [number_cell(numbers[i], text) if i in numbers else text_cell(text) for i, text in enumerate(texts)]
        rows.append(tuple(row))
    return SortableTable("effects", "Differences from the baseline", cells.heads, tuple(rows))


def variants_table(comparison: Comparison) -> SortableTable:
    """Means and sample standard deviations; axes and keys with one value for all variants are left out."""
    frame = comparison.variants
    names = [name for name in axes(frame) if len({str(value) for value in frame[name]}) > 1] or axes(frame)[:1]
    extra = ["status"] if "status" in frame else []
    rows = []
    for row in frame.to_dict("records"):
        cells = [_value_cell(name, row[name]) for name in [*names, *extra]]
        cells.append(number_cell(float(row["n"]), str(row["n"])))
        cells += [_mean_cell(metric, row[f"{metric.key}_mean"], row[f"{metric.key}_sd"]) for metric in SHOWN]
        rows.append(tuple(cells))
    heads = (*names, *extra, "n", *(metric.title for metric in SHOWN))
    return SortableTable("variants", "Variants: mean ± sample standard deviation over n seeds", heads, tuple(rows))


def _value_cell(name: str, value: object) -> SortedCell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_cell(float(value), plain(value))
    return text_cell(short(name, plain(value)))


def _mean_cell(metric: Metric, mean: float, deviation: float) -> SortedCell:
    spread = f" ±{figure(metric, deviation, mean)}" if deviation > 0 else ""
    return number_cell(mean, "" if math.isnan(mean) else f"{figure(metric, mean)}{spread}")


def reach_table(comparison: Comparison) -> SortableTable:
    """How much of each cost the arms need to reach the baseline's final validation loss; no rows if that is unknown."""
    found: dict[str, dict[CostUnit, ArmReach]] = {}
    for one in comparison.reaches:
        found.setdefault(one.arm, {})[one.unit] = one
    units = [unit for unit in CostUnit if any(unit in by_unit for by_unit in found.values())]
    rows = [(text_cell(arm), *(_reach_cell(by_unit.get(unit)) for unit in units)) for arm, by_unit in found.items()]
    caption = "Cost until the baseline's final validation loss, as a ratio to the baseline's own, with a 95 % interval"
    return SortableTable("reach", caption, ("arm", *units), tuple(rows))


def _reach_cell(one: ArmReach | None) -> SortedCell:
    if one is None or one.reach is None:
        return SortedCell(one.problem if one else "", None)
    reach = one.reach
    never = f"{reach.never} of {reach.runs} never" if reach.never else ""
    if reach.ratio is None:
        return SortedCell(never or "–", None)
    interval = "" if reach.low is None or reach.high is None else f" ({reach.low:.2f} to {reach.high:.2f})"
    return SortedCell(f"{reach.ratio:.2f}{interval}", reach.ratio)


def runs_table(rows: Sequence[RunRow]) -> SortableTable:
    """All runs that were found, finished or not."""
    found = []
    for row in rows:
        name = row.result.name or row.run.rpartition("/")[2]
        cells = [text_cell(name, row.run), text_cell("diverged" if row.diverged else row.status)]
        cells += [SortedCell(str(row.seed_label), float(row.seed)), number_cell(row.steps, f"{row.steps:,.0f}")]
        cells += [_mean_cell(metric, row.metrics[metric.key], 0.0) for metric in SHOWN]
        seconds = row.metrics["seconds"]
        cells.append(number_cell(seconds, f"{seconds:,.0f} s"))
        cells.append(text_cell(row.problem or row.result.error))
        found.append(tuple(cells))
    heads = ("run", "status", "seed", "steps", *(metric.title for metric in SHOWN), "time", "problem")
    kept = [i for i, head in enumerate(heads) if head != "problem" or any(row[i].text for row in found)]
    cut = tuple(tuple(row[i] for i in kept) for row in found)
    return SortableTable("runs", "All runs that were found", tuple(heads[i] for i in kept), cut)
