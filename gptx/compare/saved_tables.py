"""Runs as three CSV files, small enough to be committed, from which a comparison is computed again: ``runs.csv`` (one
row for each run), ``curves.csv`` (one for each metrics record) and ``units.csv`` (one for each unit of the validation
text). ``remarks.csv`` has what cannot be seen in the runs."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from gptx.compare.flat_results import flat_result, read_result_row
from gptx.compare.frames import CURVE_COLUMNS, curves_frame
from gptx.compare.run_rows import RowStatus, RunRow, row_of
from gptx.errors import GptxError
from gptx.regular_files import open_regular
from gptx.runs.records import RunStatus
from gptx.runs.unit_losses import UnitLosses

RUNS, CURVES, UNITS, REMARKS = "runs.csv", "curves.csv", "units.csv", "remarks.csv"
_HEAD = ("run", "row_status", "problem", "written")  # columns of a row before those of its result
_AT = CURVE_COLUMNS[:4]
_UNIT = ("document", "offset", "select", "report", "nats", "tokens", "size")
_LARGEST = 2**24  # characters of a cell


@dataclass(frozen=True, kw_only=True)
class SavedRuns:
    """What the files hold. ``units``: by run. ``left_out``: see `gptx.compare.selection.FoundRuns`."""

    rows: tuple[RunRow, ...]
    curves: pd.DataFrame
    units: dict[str, UnitLosses] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def is_saved(folder: Path) -> bool:
    """Whether a folder holds saved runs."""
    return (folder / RUNS).is_file() and (folder / CURVES).is_file()


def saved_files(saved: SavedRuns) -> dict[str, str]:
    """The content of the files, by name. Runs are named relative to the folder that contains all of them."""
    names = _short_names([row.run for row in saved.rows])
    files = {RUNS: _table(_run_records(saved.rows, names)), CURVES: _table(_curve_records(saved.curves, names))}
    if saved.units:
        files[UNITS] = _table(_unit_records(saved.units, names))
    remarks = [*(("left out", text) for text in saved.left_out), *(("warning", text) for text in saved.warnings)]
    if remarks:
        files[REMARKS] = _table([{"kind": kind, "text": text} for kind, text in remarks])
    return files


def _short_names(runs: Sequence[str]) -> dict[str, str]:
    parents = [str(Path(run).absolute().parent.parent) for run in runs]
    root = os.path.commonpath(parents) if parents else ""
    return {run: os.path.relpath(Path(run).absolute(), root) for run in runs}


def _run_records(rows: Iterable[RunRow], names: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {
            **dict(
                zip(
                    _HEAD,
                    (names[row.run], str(row.status), row.problem.replace(row.run, names[row.run]), repr(row.written)),
                    strict=True,
                )
            ),
            **flat_result(row.result),
        }
        for row in rows
    ]


def _curve_records(curves: pd.DataFrame, names: Mapping[str, str]) -> list[dict[str, str]]:
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for run, step, tokens, seconds, metric, value in curves.itertuples(index=False):
        if run in names:
            texts = (names[run], str(step), repr(float(tokens)), repr(float(seconds)))
            at = found.setdefault(texts, dict(zip(_AT, texts, strict=True)))
            at[metric] = repr(float(value))
    return list(found.values())


def _unit_records(units: Mapping[str, UnitLosses], names: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"run": names[run], "step": str(one.step), **{key: repr(getattr(one, key)[i].item()) for key in _UNIT}}
        for run, one in units.items()
        for i in range(len(one.nats))
    ]


def _table(records: Sequence[Mapping[str, str]]) -> str:
    columns = list(dict.fromkeys(key for record in records for key in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def read_saved(folder: Path) -> SavedRuns:
    """Read the files of a folder, which may come from somebody else.

    Raises:
        GptxError: a file is damaged or cannot be read.
    """
    try:
        return _read(folder)
    except (OSError, ValueError, KeyError, IndexError, OverflowError, csv.Error) as error:
        raise GptxError(f"the tables in {folder} are damaged: {error!r}; gptx compare --export writes them") from error


def _read(folder: Path) -> SavedRuns:
    points: list[tuple[str, int, float, float, str, float]] = []
    for cells in _records(folder / CURVES):
        run, step, tokens, seconds = (cells.pop(key) for key in _AT)
        at = (str(folder / run), int(step), float(tokens), float(seconds))
        points += [(*at, metric, float(value)) for metric, value in cells.items() if value]
    remarks = _records(folder / REMARKS) if (folder / REMARKS).exists() else []
    return SavedRuns(
        rows=tuple(_row(folder, cells) for cells in _records(folder / RUNS)),
        curves=curves_frame(list(zip(*points, strict=True)) or [()] * len(CURVE_COLUMNS)),
        units=_units(folder) if (folder / UNITS).exists() else {},
        left_out=tuple(cells["text"] for cells in remarks if cells["kind"] == "left out"),
        warnings=tuple(cells["text"] for cells in remarks if cells["kind"] == "warning"),
    )


def _records(path: Path) -> list[dict[str, str]]:
    before = csv.field_size_limit(_LARGEST)
    try:
        with open_regular(path, newline="") as file:
            return list(csv.DictReader(file, restval="", strict=True))
    finally:
        csv.field_size_limit(before)


def _row(folder: Path, cells: dict[str, str]) -> RunRow:
    run, status, problem, written = (cells.pop(key) for key in _HEAD)
    known: RowStatus = RunStatus(status) if status in list(RunStatus) else "missing"
    known = "damaged" if status == "damaged" else known
    named = problem.replace(run, str(folder / run)) if run else problem
    return replace(row_of(folder / run, known, read_result_row(cells), named), written=float(written))


def _units(folder: Path) -> dict[str, UnitLosses]:
    by_run: dict[str, list[dict[str, str]]] = {}
    for cells in _records(folder / UNITS):
        by_run.setdefault(cells["run"], []).append(cells)
    return {str(folder / run): _unit_losses(found) for run, found in by_run.items()}


def _unit_losses(records: Sequence[Mapping[str, str]]) -> UnitLosses:
    def numbers(key: str) -> list[int]:
        return [int(cells[key]) for cells in records]

    def flags(key: str) -> list[bool]:
        return [cells[key] == "True" for cells in records]

    return UnitLosses(
        step=int(records[0]["step"]),
        document=np.array(numbers("document"), "int64"),
        offset=np.array(numbers("offset"), "int64"),
        select=np.array(flags("select")),
        report=np.array(flags("report")),
        nats=np.array([float(cells["nats"]) for cells in records]),
        tokens=np.array(numbers("tokens"), "int64"),
        size=np.array(numbers("size"), "int64"),
    )
