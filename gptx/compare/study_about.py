"""What a study states, as its runs recorded it: its question, what it expects, its baseline and its margin."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gptx.compare.run_rows import RunRow
from gptx.config.expectations import Expectation, parse_expectations
from gptx.config.plain_dict import group_of
from gptx.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class StudyAbout:
    """The group ``about`` of a study's YAML. ``margin``: None if no study gives one."""

    question: str = ""
    expected: str = ""
    expectations: tuple[Expectation, ...] = ()
    baseline: str = ""
    margin: float | None = None
    answer: str = ""


def about(rows: Iterable[RunRow]) -> StudyAbout:
    """Of the newest run, if all runs belong to one study that has a question; else empty."""
    rows = sorted(rows, key=lambda row: (row.written, row.run))
    if not rows or len({row.result.study for row in rows}) > 1:
        return StudyAbout()
    found = group_of(rows[-1].result.config, "about")
    return _read(found) if found.get("question") else StudyAbout()


def _read(found: Mapping[str, Any]) -> StudyAbout:
    """The group of a run folder, which may come from others: what cannot be read is left out."""
    texts = {
        key: found[key] for key in ("question", "expected", "baseline", "answer") if isinstance(found.get(key), str)
    }
    margin = found.get("margin")
    if not isinstance(margin, int | float) or isinstance(margin, bool) or not 0 <= margin < math.inf:
        margin = None
    lines = found.get("expect")
    expectations = [one for line in lines for one in _expectations(line)] if isinstance(lines, list) else []
    return StudyAbout(**texts, margin=margin, expectations=tuple(expectations))


def _expectations(line: object) -> list[Expectation]:
    try:
        return parse_expectations(str(line))
    except ConfigError:
        return []
