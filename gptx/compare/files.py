"""The comparison as text for files: tables of variants and of runs as CSV, everything as JSON, a picture as SVG."""

import io
import json
import re
from collections.abc import Sequence

import pandas as pd
from rich.console import Group
from rich.measure import Measurement

from gptx.compare.comparability import warnings
from gptx.compare.frames import results
from gptx.compare.render import FittingTable
from gptx.compare.run_rows import RunRow, selected, status_counts
from gptx.console import Console
from gptx.terminal import visible

_WEB_FONT = re.compile(r',\s*url\("https:[^)]*\) format\("\w+"\)')  # rich adds fonts from the web to its pictures
_LISTS = ("seeds", "hardware", "device", "steps", "tokens")


def variants_csv(summary: pd.DataFrame) -> str:
    """One row for each variant."""
    plain = summary.drop(columns="runs")
    for name in _LISTS:
        plain[name] = [("; " if name == "hardware" else " ").join(map(str, found)) for found in plain[name]]
    return str(plain.to_csv(index=False))


def runs_csv(rows: Sequence[RunRow], *, all_keys: bool = False, include_unfinished: bool = False) -> str:
    """One row for each run that is compared: its variant, its seed and its metrics."""
    frame = results(selected(rows, include_unfinished=include_unfinished), all_keys=all_keys)
    return str(frame.to_csv(index=False))


def as_json(
    rows: Sequence[RunRow], summary: pd.DataFrame, *, all_keys: bool = False, include_unfinished: bool = False
) -> str:
    """The variants, the runs that are compared, the number of all runs by status, and the warnings."""
    runs = results(selected(rows, include_unfinished=include_unfinished), all_keys=all_keys)
    content = {
        "variants": _records(summary),
        "runs": _records(runs),
        "statuses": status_counts(rows),
        "warnings": warnings(rows, summary),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The rows as JSON objects; null: not measured."""
    rows = frame.to_dict("records")
    return [{str(key): None if value != value else value for key, value in row.items()} for row in rows]


def picture(page: Group, title: str) -> str:
    """The table as an SVG picture, in the widest layout."""
    wide = Console(width=1000)
    tables = [part for part in page.renderables if isinstance(part, FittingTable)]
    fits = [Measurement.get(wide, wide.options, part).maximum for part in tables]
    canvas = Console(record=True, file=io.StringIO(), width=max(80, *fits), legacy_windows=False)
    canvas.print(page)
    return _WEB_FONT.sub("", canvas.export_svg(title=visible(title)))
