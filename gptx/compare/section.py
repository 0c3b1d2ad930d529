"""A table beside the differences from the baseline, as cells of text that every format shows."""

from dataclasses import dataclass, field

from gptx.compare.conclusion import number
from gptx.compare.effect_tables import EffectCells
from gptx.runs.metrics import Metric
from gptx.statistics.verdict import Interval


@dataclass(frozen=True, kw_only=True)
class Section:
    """A title, sentences, and a table; the sentences or the table may be empty."""

    title: str
    lines: tuple[str, ...] = ()
    cells: EffectCells = field(default_factory=lambda: EffectCells((), ()))


def interval_text(metric: Metric, interval: Interval | None) -> str:
    """Such as ``-0.0310 to +0.0021``."""
    if interval is None:
        return "-"
    return " to ".join(number(metric, value, signed=True) for value in (interval.low, interval.high))


def difference_head(metric: Metric) -> str:
    """The heading of a column of differences, with the unit."""
    return f"difference{f' ({metric.unit})' * bool(metric.unit)}"
