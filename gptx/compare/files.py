"""The comparison as text for files: tables of variants and of runs as CSV, everything as JSON, a picture as SVG."""

import io
import json
import re

import pandas as pd
from rich.console import Group
from rich.measure import Measurement

from gptx.compare.comparison import Comparison
from gptx.compare.conclusion import noise_floor, notes
from gptx.compare.costs import MOST_ARMS
from gptx.compare.effect_tables import FittingEffects
from gptx.compare.finding_frames import costs_frame, pairs_frame, reach_frame, strategies_frame
from gptx.compare.grid_sections import factors_frame
from gptx.compare.render import FittingTable
from gptx.compare.run_rows import status_counts
from gptx.compare.study_answer import lines
from gptx.console import Console
from gptx.terminal import visible

_WEB_FONT = re.compile(r',\s*url\("https:[^)]*\) format\("\w+"\)')  # rich adds fonts from the web to its pictures
_LISTS = ("seeds", "hardware", "device", "threads", "other_runs", "steps", "tokens")


def variants_csv(comparison: Comparison) -> str:
    """One row for each variant."""
    plain = comparison.variants.drop(columns="runs")
    for name in _LISTS:
        plain[name] = [("; " if name == "hardware" else " ").join(map(str, found)) for found in plain[name]]
    return str(plain.to_csv(index=False))


def runs_csv(comparison: Comparison) -> str:
    """One row for each run that is compared: its variant, its seed and its metrics."""
    return str(comparison.runs.to_csv(index=False))


def effects_csv(comparison: Comparison) -> str:
    """One row for each arm: its difference from the baseline."""
    return str(comparison.table.to_csv(index=False))


def factors_csv(comparison: Comparison) -> str:
    """One row for each main effect, simple effect and interaction of factors."""
    return str(factors_frame(comparison).to_csv(index=False))


def as_json(comparison: Comparison) -> str:
    """The conclusion, the differences, all tables, the runs, the number of all runs by status, and the warnings. Pairs
    are left out with more than `MOST_ARMS` arms, because they are many."""
    content = {
        "conclusion": comparison.sentence,
        "noise": noise_floor(comparison),
        "effects": _records(comparison.table),
        "pairs": _records(pairs_frame(comparison)) if len(comparison.compared) <= MOST_ARMS else [],
        "factors": _records(factors_frame(comparison)),
        "reach": _records(reach_frame(comparison)),
        "costs": _records(costs_frame(comparison)),
        "strategies": _records(strategies_frame(comparison)),
        "notes": [*notes(comparison), *comparison.excluded, *comparison.strategies.suspected],
        "study": [line.strip() for line in lines(comparison)],
        "variants": _records(comparison.variants),
        "runs": _records(comparison.runs),
        "statuses": status_counts(comparison.found.rows),
        "warnings": comparison.warnings,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The rows as JSON objects; null: not measured."""
    rows = frame.to_dict("records")
    return [{str(key): None if value != value else value for key, value in row.items()} for row in rows]


def picture(page: Group, title: str) -> str:
    """The table as an SVG picture, in the widest layout."""
    wide = Console(width=1000)
    tables = [part for part in page.renderables if isinstance(part, FittingTable | FittingEffects)]
    fits = [Measurement.get(wide, wide.options, part).maximum for part in tables]
    canvas = Console(record=True, file=io.StringIO(), width=max(80, *fits), legacy_windows=False)
    canvas.print(page)
    return _WEB_FONT.sub("", canvas.export_svg(title=visible(title)))
