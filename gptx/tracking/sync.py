"""Send the journals of many runs to MLflow. Records that MLflow already has are not sent again."""

from pathlib import Path

from gptx.cli import log
from gptx.runs import journal
from gptx.runs.run_lists import run_name
from gptx.runs.sweep_runs import sweep_runs
from gptx.tracking.mlflow_connection import Store, one_line, without_password


def outputs_of(root: Path) -> Path:
    """The outputs folder of ``root``, which is an outputs folder, a study or a run (``<outputs>/<study>/<run>``)."""
    root = root.resolve()
    first = next(journal.runs(root), root / "study" / "run")
    return {root: root.parent.parent, root / first.name: root.parent}.get(first, root)


def sync(root: Path, uri: str = "", *, show: bool = True) -> tuple[int, list[str]]:
    """Replay into MLflow every run at or below the folder ``root``.

    Returns:
        The number of runs, and one line for each that failed.
    """
    return send(list(journal.runs(root)), outputs_of(root), uri, show=show)


def send(run_dirs: list[Path], outputs: Path, uri: str = "", *, show: bool = True) -> tuple[int, list[str]]:
    """Replay these runs below ``outputs``; see `sync`."""
    from rich.progress import track

    from gptx.console import Console

    if not run_dirs:
        return 0, []
    store = Store(outputs, uri)
    from gptx.tracking.mlflow_writer import Replay

    console = Console(stderr=True)
    rows = new = 0
    failures = []
    for run_dir in track(run_dirs, "MLflow", console=console, transient=True, disable=not show):
        try:
            replay = Replay(store, outputs, run_dir)
            replay.push()
        except Exception as error:  # an error in one run must not stop the others
            failures.append(f"{run_dir}: {one_line(error)}")
            continue
        rows, new = rows + replay.rows, new + replay.new_rows
    sent = len(run_dirs) - len(failures)
    failures += _send_sweeps(store, run_dirs, outputs)
    if show:
        for line in failures:
            log.error("not written to MLflow: %s", line)
        where = without_password(store.uri)
        done = f"{sent} of {len(run_dirs)} runs, {rows} rows, {new} new, in {where}"
        Console().print(done, soft_wrap=True)
    return len(run_dirs), failures


def _send_sweeps(store: Store, run_dirs: list[Path], outputs: Path) -> list[str]:
    """Write the sweeps to which any of these runs belongs. Returns one line for each that failed."""
    from gptx.tracking.sweep_writer import SweepReplay

    names, failures = {run_name(run_dir) for run_dir in run_dirs}, []
    for sweep, plan in sweep_runs(outputs):
        if names & set(plan.runs):
            try:
                SweepReplay(store, outputs, sweep).push()
            except Exception as error:  # an error in one sweep must not stop the others
                failures.append(f"{sweep}: {one_line(error)}")
    return failures
