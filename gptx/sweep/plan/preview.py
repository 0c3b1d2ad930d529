"""What a sweep shows before it starts anything: its arms, what they take, what is refused and why, and how long it all
will be."""

import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from gptx.runs.codec import to_json
from gptx.sweep.plan import rates
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.memory_fit import human
from gptx.sweep.plan.time_estimate import Pace, startup, total

if TYPE_CHECKING:
    from gptx.sweep.search.halving import Course

MOST_ARMS = 40
MOST_TITLES = 3  # of those that are refused for the same reason


@dataclass
class Row:
    """One arm. ``states``: of its cells; ``seconds``: of those that will run."""

    arm: str
    cells: list[Cell] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    seconds: list[float | None] = field(default_factory=list)

    def state(self) -> str:
        count = _counted(self.states)
        return next(iter(count)) if len(count) == 1 else ", ".join(f"{n} {state}" for state, n in count.items())

    def figures(self) -> list[str]:
        facts = next((facts for cell in self.cells if (facts := _facts(cell))), {})
        known = [seconds for seconds in self.seconds if seconds is not None]
        memory, many = facts.get("memory_bytes"), facts.get("processes", 1)
        return [
            _short(facts.get("n_params")),
            _short(facts.get("flops_per_token")),
            f"{f'{many} x ' if many > 1 else ''}{human(memory)}" if memory else "",
            clock(max(known)) if known else "",
        ]


def show(
    cells: Sequence[Cell],
    jobs: int,
    pace: Pace,
    about: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
    course: "Course | None" = None,
    console: Console | None = None,
) -> float:
    """Print the survey.

    Args:
        jobs: how many will run at once.
        about: of a study: its question, what is expected, its paper.
        notes: lines that belong to the whole sweep, such as `check_memory`'s.
        course: of a halving.

    Returns:
        How many seconds all that will run is thought to take; 0: that is not known.
    """
    console = console or Console(highlight=False)
    rows: dict[str, Row] = {}
    runs: list[tuple[float | None, int]] = []
    sources: list[str] = []
    out = course.left_out() if course else {}
    for cell in cells:
        row = rows.setdefault(cell.arm, Row(cell.arm))
        row.cells.append(cell)
        row.states.append(_state(cell, out))
        if row.states[-1] == "run":
            seconds, source = pace.seconds(cell)
            row.seconds.append(seconds)
            runs.append((seconds, cell.facts["processes"]))
            sources += [source] if source else []
    for key in ("question", "expected", "paper"):
        if about and about.get(key):
            console.print(Text.assemble((f"{key}: ", "bold"), about[key]))
    shown = list(rows.values())[:MOST_ARMS]
    console.print(_fitting(shown, console))
    if len(rows) > MOST_ARMS:
        console.print(f"and {len(rows) - MOST_ARMS} more")
    if solved := _solved(shown):
        console.print(solved)
    for line in filter(None, (*refusals(cells), *notes, str(course or ""))):
        console.print(Text(line), soft_wrap=not console.is_terminal)
    known = [(seconds, processes) for seconds, processes in runs if seconds is not None]
    whole = _whole(known, jobs, course) if known and len(known) == len(runs) else 0.0
    states = [state for row in rows.values() for state in row.states]
    console.print(Text(last("combination", states, jobs, whole, sources), "bold"), soft_wrap=not console.is_terminal)
    return whole


def _whole(runs: Sequence[tuple[float, int]], jobs: int, course: "Course | None") -> float:
    """Seconds of all runs. Who goes on in a halving is not known yet: whoever it is takes what the mean takes."""
    if course is None:
        return total(runs, jobs)
    mean, whole = statistics.mean(seconds for seconds, _ in runs), 0.0
    for share, arms in course.stretches():
        some = [many for _, many in runs][: max(1, round(arms * len(runs)))]
        whole += total([(startup(many) + share * max(0.0, mean - startup(many)), many) for many in some], jobs)
    return whole


def _table(rows: Sequence[Row], split: bool, sizes: bool = True) -> Table:
    """``split``: a column for each key that names the arms; else they are in one. ``sizes``: of the models, too."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    pairs = [[word.partition("=") for word in row.arm.split()] for row in rows]
    if split:
        for key, _, _ in pairs[0]:
            table.add_column(Text(key.replace(".", ".\n")), no_wrap=True)
    else:
        table.add_column("arm", min_width=max(len(word) for row in rows for word in ["", *row.arm.split()]))
    for name in ("runs", *(("parameters", "FLOPs/\ntoken") if sizes else ()), "memory", "a run"):
        table.add_column(Text(name, justify="right"), justify="right", no_wrap=True)
    table.add_column("state", min_width=len("state"))
    for row, words in zip(rows, pairs, strict=True):
        named = [value for _, _, value in words] if split else [row.arm or "the only one"]
        cells = [*named, str(len(row.cells)), *row.figures()[0 if sizes else 2 :], row.state()]
        table.add_row(*map(Text, cells), style="dim" if row.state() != "run" else "")
    return table


def _fitting(rows: Sequence[Row], console: Console) -> Table:
    """With the arms' keys as columns, where all have the same ones and the width has room."""
    keys = {tuple(word.partition("=")[0] for word in row.arm.split()) for row in rows}
    if len(keys) == 1 and all("=" in word for row in rows for word in row.arm.split()) and any(keys.pop()):
        table = _table(rows, split=True)
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
            return table
    table = _table(rows, split=False)
    tight = Measurement.get(console, console.options.update(max_width=10_000), table).minimum > console.width
    return _table(rows, split=False, sizes=False) if tight else table


def _solved(rows: Sequence[Row]) -> Table | None:
    """What was solved for each arm, at whatever rate."""
    notes = {rates.without_rate(cell.arm): cell.note for row in rows for cell in row.cells if cell.note}
    table = Table.grid(padding=(0, 2))
    for arm, note in notes.items():
        table.add_row(Text(arm or "the only one"), Text(note, "dim"))
    return table if notes else None


def refusals(cells: Iterable[Cell]) -> list[str]:
    """Every reason, with those that it refuses."""
    titles: dict[str, list[str]] = {}
    for cell in cells:
        if cell.refusal:
            titles.setdefault(cell.refusal, []).append(cell.title)
    lines = []
    for reason, named in titles.items():
        if len(named) == 1:
            lines.append(f"refused: {named[0]}: {reason}")
            continue
        more = f" and {len(named) - MOST_TITLES} more" if len(named) > MOST_TITLES else ""
        lines.append(f"refused: {len(named)} combinations: {reason} ({', '.join(named[:MOST_TITLES])}{more})")
    return lines


def last(what: str, states: Sequence[str], jobs: int, seconds: float, sources: Sequence[str]) -> str:
    """``24 combinations: 20 will run, 2 at once, about 13 min (by 3 finished runs); 2 are done; 2 refused``."""
    count = _counted(states)
    said = []
    if run := count.get("run", 0):
        told = f"about {clock(seconds)} (by {max(sources, key=sources.count)})" if seconds else "nobody knows how long"
        said.append(f"{run} will run, {min(run, jobs)} at once, {told}")
    if done := count.get("done", 0):
        said.append(f"{done} {'are' if done > 1 else 'is'} done")
    if out := count.get("left out", 0):
        said.append(f"{out} {'are' if out > 1 else 'is'} left out")
    if refused := count.get("refused", 0):
        said.append(f"{refused} refused")
    return f"{len(states)} {what}{'s' * (len(states) > 1)}: {'; '.join(said)}"


def _state(cell: Cell, out: Container[str]) -> str:
    return "refused" if cell.refusal else "done" if cell.done else "left out" if cell.title in out else "run"


def _counted(states: Sequence[str]) -> dict[str, int]:
    return {state: states.count(state) for state in ("run", "done", "left out", "refused") if state in states}


def _facts(cell: Cell) -> Mapping[str, Any]:
    """Preflight's; of what is done, its result's."""
    if cell.facts or not cell.folder:
        return cell.facts
    result = cell.folder.result()
    return {**to_json(result), "memory_bytes": result.peak_memory_bytes} if result and cell.done else {}


def _short(number: float | None) -> str:
    """1234567 -> 1.23M."""
    if number is None:
        return ""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def clock(seconds: float) -> str:
    """At most two digits are meant."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.{1 if seconds < 9.95 * unit else 0}f} {name}"
    return f"{max(1, round(seconds))} s"
