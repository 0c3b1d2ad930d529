"""The table of a sweep's preview: one row per arm with its size, memory, time and status."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rich import box
from rich.measure import Measurement
from rich.table import Table

from gptx.console import Console, VisibleText
from gptx.runs.preflight_facts import RunSetup
from gptx.runs.units import human, memory_text
from gptx.sweep.plan import learning_rates
from gptx.sweep.plan.cells import Cell

UNLIMITED = 10_000  # columns; console width used to measure the natural width of a table


class PreviewStatus(StrEnum):
    """The status of a cell before its sweep starts, in the order of the preview's summary."""

    TO_RUN = "to run"
    LATER = "if undecided"  # with sweep.seeds=auto
    FINISHED = "finished"
    DROPPED = "dropped"  # by a halving, or not needed with sweep.seeds=auto
    REJECTED = "rejected"


def counts(statuses: Sequence[PreviewStatus]) -> dict[PreviewStatus, int]:
    return {status: statuses.count(status) for status in PreviewStatus if status in statuses}


@dataclass
class ArmRow:
    """One arm: its cells, their status, and the estimated seconds of those that will run."""

    arm: str
    cells: list[Cell] = field(default_factory=list)
    statuses: list[PreviewStatus] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)

    @property
    def status(self) -> str:
        count = counts(self.statuses)
        return next(iter(count)) if len(count) == 1 else ", ".join(f"{n} {status}" for status, n in count.items())

    def figures(self) -> list[str]:
        """Parameters, FLOPs per token, memory and time; an unknown one is empty."""
        setup = next((setup for cell in self.cells if (setup := _setup(cell))), RunSetup())
        memory = next((size for cell in self.cells if (size := _memory(cell))), None)
        known = [seconds for seconds in self.seconds if seconds is not None]
        processes = setup.processes
        return [
            *("" if math.isnan(size) else human(size) for size in (setup.n_params, setup.flops_per_token)),
            f"{f'{processes} x ' if processes > 1 else ''}{memory_text(memory)}" if memory else "",
            duration(max(known)) if known else "",
        ]


def _setup(cell: Cell) -> RunSetup | None:
    """The facts that preflight found, or else the result of a finished run."""
    return cell.facts or (cell.folder.result() if cell.folder and cell.done else None)


def _memory(cell: Cell) -> float | None:
    """The estimated memory, or else the memory that a finished run measured."""
    result = cell.folder.result() if cell.folder and cell.done else None
    return cell.memory_bytes or (result.peak_memory_bytes if result else None)


def arm_table(rows: Sequence[ArmRow], console: Console) -> Table:
    """The most detailed table that fits the console: a column for each key of the arms, or one column for all keys, or
    one column for all keys and no model sizes."""
    keys = {tuple(override.partition("=")[0] for override in row.arm.split()) for row in rows}
    if len(keys) == 1 and all("=" in override for row in rows for override in row.arm.split()) and any(keys.pop()):
        table = _table(rows, key_columns=True)
        if _width(table, console).maximum <= console.width:
            return table
    table = _table(rows, key_columns=False)
    return _table(rows, key_columns=False, sizes=False) if _width(table, console).minimum > console.width else table


def _width(table: Table, console: Console) -> Measurement:
    return Measurement.get(console, console.options.update(max_width=UNLIMITED), table)


def _table(rows: Sequence[ArmRow], key_columns: bool, sizes: bool = True) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    pairs = [[override.partition("=") for override in row.arm.split()] for row in rows]
    if key_columns:
        for key, _, _ in pairs[0]:
            table.add_column(VisibleText(key.replace(".", ".\n")), no_wrap=True)
    else:
        table.add_column("arm", min_width=max(len(part) for row in rows for part in ["", *row.arm.split()]))
    for name in ("runs", *(("parameters", "FLOPs per\ntoken") if sizes else ()), "memory", "time\nper run"):
        table.add_column(VisibleText(name, justify="right"), justify="right", no_wrap=True)
    table.add_column("status", min_width=len("finished"))
    for row, overrides in zip(rows, pairs, strict=True):
        named = [value for _, _, value in overrides] if key_columns else [row.arm or "the only arm"]
        texts = [*named, str(len(row.cells)), *row.figures()[0 if sizes else 2 :], row.status]
        table.add_row(*map(VisibleText, texts), style="" if row.status == PreviewStatus.TO_RUN else "dim")
    return table


def matched_table(rows: Sequence[ArmRow]) -> Table | None:
    """A table of what `match` changed in each arm, one row for all its learning rates; None if nothing was matched."""
    notes = {learning_rates.without_rate(cell.arm): cell.note for row in rows for cell in row.cells if cell.note}
    table = Table.grid(padding=(0, 2))
    for arm, note in notes.items():
        table.add_row(VisibleText(arm or "the only arm"), VisibleText(note, "dim"))
    return table if notes else None


def duration(seconds: float) -> str:
    """Format a time given in seconds as s, min, h or days, with at most two digits."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.{1 if seconds < 9.95 * unit else 0}f} {name}"
    return f"{max(1, round(seconds))} s"
