"""Tables of ``gptx sweep list`` and ``gptx sweep status``."""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich.table import Table

from gptx.console import Console, VisibleText
from gptx.runs import journal
from gptx.runs.provenance import outputs_option
from gptx.runs.records import RunStatus
from gptx.sweep.commands.status import CellStatus, StatusRow, status_rows
from gptx.sweep.state.folder import Sweep, SweepKind
from gptx.terminal import shell_words

_STYLES = {
    CellStatus.RUNNING: "cyan",
    CellStatus.FINISHED: "green",
    CellStatus.FAILED: "bold red",
    CellStatus.REJECTED: "yellow",
    CellStatus.STOPPED: "yellow",
}


def show_list(sweeps: Sequence[Sweep]) -> None:
    """Print a table of sweeps. On a terminal their commands follow the table, because they are too wide for it."""
    console, table = console_without_folding(), Table(box=None, pad_edge=False)
    for name in ("sweep", "kind", "launcher", "runs", "finished", *([] if console.is_terminal else ["command"])):
        table.add_column(name, no_wrap=True, justify="right" if name in ("runs", "finished") else "left")
    for sweep in sweeps:
        plan = sweep.plan
        folders = [sweep.outputs / cell.run for cell in plan.cells if cell.run and not cell.rejection]
        finished = sum((run / journal.NAME).exists() and journal.status(run) is RunStatus.FINISHED for run in folders)
        row = (sweep.name, plan.kind, plan.launcher, str(len(folders)), str(finished), _shown(plan.command))
        table.add_row(*map(VisibleText, row[: len(table.columns)]))
    console.print(table)
    for sweep in sweeps if console.is_terminal else []:
        console.print(VisibleText.assemble((f"\n{sweep.name}: ", "bold"), _shown(sweep.plan.command)), soft_wrap=True)


def show_status(sweep: Sweep) -> None:
    """Print the status of every run, and the commands that resume or collect the sweep."""
    plan, statuses, console = sweep.plan, list(status_rows(sweep)), console_without_folding()
    title = f"{sweep.name} ({plan.kind}, {plan.launcher}): {count_statuses(statuses)}"
    console.print(title, soft_wrap=True)
    console.print(_table(statuses))
    if any(one.active for one in statuses):
        return
    collect = f"gptx sweep collect {sweep.name}{outputs_option(sweep.outputs)}"
    for line in (*command_for_the_rest(sweep, statuses), f"compare the finished runs: {collect}"):
        console.print(line, soft_wrap=True)


def command_for_the_rest(sweep: Sweep, statuses: Sequence[StatusRow]) -> list[str]:
    """Return a line with the command that runs the unfinished cells; no line if there are none."""
    plan, rest = sweep.plan, {CellStatus.STOPPED, CellStatus.NOT_STARTED}
    if plan.kind is SweepKind.GRID:  # a search does not try a failed run again
        rest.add(CellStatus.FAILED)
    return [f"run the rest: {_shown(plan.command)}"] if any(one.status in rest for one in statuses) else []


def count_statuses(statuses: Sequence[StatusRow]) -> str:
    """Format the number of rows of each status, such as "2 running, 1 waiting"."""
    counts = Counter(one.status for one in statuses)
    return ", ".join(f"{counts[status]} {status}" for status in CellStatus if counts[status])


def group_rejected(statuses: Sequence[StatusRow]) -> Iterator[StatusRow]:
    """All but the rejected cells, then one for each reason of a rejection, which names the first cell."""
    rejected: dict[str, list[StatusRow]] = {}
    for one in statuses:
        if one.status is CellStatus.REJECTED:
            rejected.setdefault(one.detail, []).append(one)
        else:
            yield one
    for first, *others in rejected.values():
        yield replace(first, title=f"{first.title} and {len(others)} more") if others else first


def _table(statuses: Sequence[StatusRow]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in group_rejected(statuses):
        detail = ", ".join(filter(None, (f"job {row.job}" if row.job else "", row.detail)))
        table.add_row(VisibleText(row.title), VisibleText(row.status, _STYLES.get(row.status, "")), VisibleText(detail))
    return table


def console_without_folding() -> Console:
    """A console that does not wrap lines if stdout is a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else 10_000)


def _shown(command: str) -> str:
    """A saved command as stdout's encoding can show it."""
    try:
        return shell_words(shlex.split(command))
    except ValueError:  # an open quote: gptx did not write it
        return command
