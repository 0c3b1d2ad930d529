"""Results of runs as rows of a table and back: nested keys become columns such as ``variant.attention``.

A cell is the JSON form of a value, but texts have no quotes where that is not ambiguous. Keys that are file locations
or do not decide the result are left out.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from gptx.config.identity import NOT_RESULT, NOT_RESULT_KEYS
from gptx.runs.json_codec import from_json, to_json
from gptx.runs.records import Result

_PLAIN = re.compile(r"[\w@-]+")  # keys that can be a part of a column's name
_DROPPED = tuple(group for group in NOT_RESULT if group not in ("about", "study"))


def flat_result(result: Result) -> dict[str, str]:
    """{column: cell} of a result."""
    data = to_json(result)
    config = {key: value for key, value in data["config"].items() if key not in _DROPPED}
    cells: dict[str, str] = {}
    _flatten({**data, "config": config}, "", cells)
    for key in NOT_RESULT_KEYS:
        if not key.startswith("strategy."):  # with dropout, the number of processes decides the result
            cells.pop(f"config.{key}", None)
    return cells


def read_result_row(cells: Mapping[str, str]) -> Result:
    """The result of a row; empty cells are values that it lacks.

    Raises:
        ValueError: the row is no result.
    """
    data: dict[str, Any] = {}
    for name, cell in cells.items():
        if cell:
            *groups, key = name.split(".")
            place = data
            for group in groups:
                place = place.setdefault(group, {})
                if not isinstance(place, dict):
                    raise ValueError(f"the column {name} lies in a column with a value")
            place[key] = read_cell(cell)
    return from_json(Result, data)


def _flatten(data: Mapping[str, Any], prefix: str, cells: dict[str, str]) -> None:
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and all(_PLAIN.fullmatch(str(one)) for one in value):
            _flatten(value, f"{name}.", cells)
        else:
            cells[name] = write_cell(value)


def write_cell(value: Any) -> str:
    """A value as a cell; never empty."""
    if isinstance(value, str) and value and _is_no_json(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def read_cell(cell: str) -> Any:
    """The value of a cell."""
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _is_no_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return "\0" not in text and "\r" not in text  # which CSV files do not keep
    return False
