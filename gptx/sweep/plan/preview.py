"""The preview that a sweep prints before it starts runs: its arms, their memory and time, the rejected combinations
with the reasons, and the estimated time of the sweep."""

import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from gptx.console import Console, VisibleText
from gptx.sweep.execute.launcher import Launcher
from gptx.sweep.plan.auto_report import AutoPreview
from gptx.sweep.plan.cells import Cell
from gptx.sweep.plan.halving import HalvingState
from gptx.sweep.plan.memory_fit import check_memory
from gptx.sweep.plan.preview_table import ArmRow, PreviewStatus, arm_table, counts, duration, matched_table
from gptx.sweep.plan.time_estimate import RunTime, TimeEstimate, TimeEstimator, startup, total_seconds
from gptx.sweep.state.folder import Sweep
from gptx.training.start_record import other_code

MAX_ROWS = 40
MAX_TITLES = 3  # of the cells that are rejected for the same reason


def preview(
    cells: Sequence[Cell],
    launcher: Launcher,
    options: DictConfig,
    sweep: Sweep | None = None,
    auto: AutoPreview | None = None,
    note: str = "",
) -> float:
    """Print what will run, what it needs and what is rejected. Reduces the launcher's slots if memory is too small.

    Args:
        sweep: the sweep, whose journal has the decisions of a halving.
        auto: which runs sweep.seeds=auto needs; None: all.
        note: a line about the full sweep.

    Returns:
        Estimated seconds of the full sweep; 0 if unknown.
    """
    runs = 0 if options.dry_run else sum(not (cell.rejection or cell.done) for cell in cells)
    # Created before memory limits the slots, because the threads of a run depend on the requested slots.
    estimator = TimeEstimator(Path(options.paths.outputs), launcher.slots, launcher.on_this_machine, runs)
    limit = check_memory(cells, launcher.slots, launcher.on_this_machine)
    launcher.slots = limit.jobs
    halves = options.sweep.halving and any(not cell.rejection for cell in cells)
    halving = HalvingState.next_command(cells, options.sweep.factor, sweep) if sweep and halves else None
    notes = [*filter(None, (limit.note, note)), *_changed_code(cells)]
    return show(cells, launcher.slots, estimator, options.about, notes, halving, auto=auto)


def _changed_code(cells: Sequence[Cell]) -> list[str]:
    """A warning if the user's own modules have changed since runs were made with them."""
    changed = [
        other_code(cell.folder) for cell in cells if cell.folder and not (cell.rejection or cell.config["force"])
    ]
    if not (count := sum(map(bool, changed))):
        return []
    names = ", ".join(sorted({name for modules in changed for name in modules}))
    return [
        f"{count} run{'s' * (count > 1)} used an earlier version of your code ({names}): force=true starts them again"
    ]


def show(
    cells: Sequence[Cell],
    jobs: int,
    estimator: TimeEstimator,
    about: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
    halving: HalvingState | None = None,
    console: Console | None = None,
    auto: AutoPreview | None = None,
) -> float:
    """Print the preview.

    Args:
        jobs: the maximum number of runs that train at the same time.
        about: texts about the study: its question, the expected answer, and the paper.
        notes: lines about the full sweep.
        auto: which runs sweep.seeds=auto needs; None: all.

    Returns:
        Estimated seconds of the full sweep; 0 if unknown.
    """
    console = console or Console()
    dropped = halving.dropped() if halving else auto.dropped if auto else {}
    rows, times = _rows(cells, estimator, dropped, auto.later if auto else ())
    _print_about(about or {}, console)
    _print_arms(rows, console)
    for line in filter(None, (*rejections(cells), *notes, str(halving or ""), auto.note if auto else "")):
        console.print(VisibleText(line), soft_wrap=not console.is_terminal)
    seconds = _total(times, jobs, halving)
    statuses = [status for row in rows for status in row.statuses]
    sources = [time.source for time in times if time.source]
    line = summary("combination", statuses, jobs, seconds, sources)
    console.print(VisibleText(line, "bold"), soft_wrap=not console.is_terminal)
    return seconds


def _print_about(about: Mapping[str, str], console: Console) -> None:
    for key in ("question", "expected", "paper"):
        if about.get(key):
            console.print(VisibleText.assemble((f"{key}: ", "bold"), about[key]))


def _print_arms(rows: Sequence[ArmRow], console: Console) -> None:
    """Print the table of the arms, and what `match` changed in them."""
    console.print(arm_table(rows[:MAX_ROWS], console))
    if len(rows) > MAX_ROWS:
        console.print(f"and {len(rows) - MAX_ROWS} more arms")
    if matched := matched_table(rows[:MAX_ROWS]):
        console.print(matched)


def _rows(
    cells: Sequence[Cell], estimator: TimeEstimator, dropped: Container[str], later: Container[str]
) -> tuple[list[ArmRow], list[TimeEstimate]]:
    """The rows, and the time estimates of the cells that will run."""
    rows: dict[str, ArmRow] = {}
    times = []
    for cell in cells:
        row = rows.setdefault(cell.arm, ArmRow(cell.arm))
        row.cells.append(cell)
        row.statuses.append(_status(cell, dropped, later))
        if row.statuses[-1] == PreviewStatus.TO_RUN:
            estimate = estimator.estimate(cell)
            row.seconds.append(estimate.seconds)
            times.append(estimate)
    return list(rows.values()), times


def _status(cell: Cell, dropped: Container[str], later: Container[str]) -> PreviewStatus:
    if cell.rejection:
        return PreviewStatus.REJECTED
    if cell.done:
        return PreviewStatus.FINISHED
    if cell.title in dropped:
        return PreviewStatus.DROPPED
    return PreviewStatus.LATER if cell.title in later else PreviewStatus.TO_RUN


def _total(times: Sequence[TimeEstimate], jobs: int, halving: HalvingState | None) -> float:
    """Seconds until all runs have ended; 0 if one is unknown. Which arms a halving promotes is not known yet:
    each is taken to need the mean time."""
    runs = [RunTime(time.seconds, time.processes) for time in times if time.seconds is not None]
    if not runs or len(runs) < len(times):
        return 0.0
    if halving is None:
        return total_seconds(runs, jobs)
    mean, total = statistics.mean(run.seconds for run in runs), 0.0
    for stage in halving.stages():
        training = [run.processes for run in runs][: max(1, round(stage.arms * len(runs)))]
        seconds = [startup(many) + stage.steps * max(0.0, mean - startup(many)) for many in training]
        total += total_seconds(map(RunTime, seconds, training), jobs)
    return total


def rejections(cells: Iterable[Cell]) -> list[str]:
    """A line for every reason, with the cells that are rejected for it."""
    titles: dict[str, list[str]] = {}
    for cell in cells:
        if cell.rejection:
            titles.setdefault(cell.rejection, []).append(cell.title)
    lines = []
    for reason, named in titles.items():
        if len(named) == 1:
            lines.append(f"rejected: {named[0]}: {reason}")
            continue
        more = f" and {len(named) - MAX_TITLES} more" if len(named) > MAX_TITLES else ""
        lines.append(f"rejected: {len(named)} combinations: {reason} ({', '.join(named[:MAX_TITLES])}{more})")
    return lines


def summary(what: str, statuses: Sequence[PreviewStatus], jobs: int, seconds: float, sources: Sequence[str]) -> str:
    """``24 combinations: 20 to run, 2 at once, about 13 min (estimated from 3 finished runs); 2 finished; 2 rejected``.

    Args:
        what: the noun for the counted items, in singular, such as "combination".
        seconds: estimated time of all runs; 0 if unknown.
        sources: what the time estimates are based on; the most frequent one is shown.
    """
    parts = []
    for status, count in counts(statuses).items():
        part = f"{count} {status}"
        if status == PreviewStatus.TO_RUN:
            basis = f" (estimated from {max(sources, key=sources.count)})" if seconds else ""
            time = f"about {duration(seconds)}{basis}" if seconds else "time unknown"
            part += f", {min(count, jobs)} at once, {time}"
        parts.append(part)
    return f"{len(statuses)} {what}{'s' * (len(statuses) > 1)}: {'; '.join(parts)}"
