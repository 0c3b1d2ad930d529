"""``gptx sweep collect``: write the runs of a sweep to MLflow, compare the finished ones, and list the others."""

import sys
from pathlib import Path

from gptx.cli import log
from gptx.runs import journal
from gptx.runs.folder import RunFolder
from gptx.sweep.commands.status import CellStatus, StatusRow, status_rows
from gptx.sweep.commands.status_table import command_for_the_rest, count_statuses
from gptx.sweep.end_report import UNTIL_DECIDED, list_reasons, show_comparison
from gptx.sweep.plan import learning_rates
from gptx.sweep.plan.auto_report import show_verdicts
from gptx.sweep.plan.final_runs import ComparedRuns, compared_runs
from gptx.sweep.state.folder import Sweep
from gptx.terminal import echo
from gptx.tracking.sync import send

_NOT_FINISHED = (
    CellStatus.DROPPED,
    CellStatus.PRUNED,
    CellStatus.REJECTED,
    CellStatus.NOT_STARTED,
    CellStatus.STOPPED,
    CellStatus.FAILED,
)


def collect(sweep: Sweep) -> int:
    """Collect the results that exist so far. Returns the exit code: 1 if a run has failed."""
    statuses = list(status_rows(sweep))
    finished = [one.folder for one in statuses if one.status is CellStatus.FINISHED and one.folder]
    plan = sweep.plan
    compared = ComparedRuns(finished, UNTIL_DECIDED if plan.auto else "")
    if plan.lr:
        compared = ComparedRuns(learning_rates.show_choices(sweep))
    elif plan.has_final_cells:
        compared = compared_runs(sweep, finished)
    if compared.runs:
        show_comparison(sweep, compared)
    _send_to_mlflow(sweep, statuses)
    if active := [one for one in statuses if one.active]:
        echo(f"\n{len(active)} of {len(statuses)} are not done yet ({count_statuses(active)}); collect again later")
    for status in _NOT_FINISHED:
        if not plan.auto:  # the verdicts name the seeds
            list_reasons(status, {one.title: one.detail for one in statuses if one.status is status}, len(statuses))
    if plan.auto:
        failed = {one.title for one in statuses if one.status is CellStatus.FAILED}
        show_verdicts(plan.auto, plan.cells, sweep.outputs, failed)
    for line in command_for_the_rest(sweep, statuses):
        echo(line, file=sys.stderr)
    return int(any(one.status is CellStatus.FAILED for one in statuses))


def _send_to_mlflow(sweep: Sweep, statuses: list[StatusRow]) -> None:
    by_uri: dict[str, list[Path]] = {}
    for one in statuses:
        if one.folder and (one.folder / journal.NAME).exists() and (uri := _mlflow_uri(one.folder)) is not None:
            by_uri.setdefault(uri, []).append(one.folder)
    for uri in sorted(by_uri):
        for line in send(by_uri[uri], sweep.outputs, uri)[1]:
            log.warning("not written to MLflow: %s", line)


def _mlflow_uri(folder: Path) -> str | None:
    """The MLflow store that the config of a run names; None if the run is not tracked."""
    start = RunFolder(folder).start_record()
    tracking = start.config.get("tracking", {}) if start else {}
    return str(tracking.get("uri", "")) if tracking.get("enabled") else None
