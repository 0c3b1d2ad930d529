"""The live display of a sweep: a table on a terminal; without a terminal, one line for each run that ends."""

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from gptx.console import Console, VisibleText
from gptx.runs import journal
from gptx.runs.folder import RunFolder
from gptx.runs.records import MetricsRecord, RunStatus
from gptx.sweep.execute.launcher import End, Task
from gptx.sweep.state.records import AttemptOutcome


class RunProgress:
    """The progress of a run, from its journal.

    Attributes:
        step: the newest step in the journal.
        loss: the newest validation loss, formatted; "" if there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, time.monotonic()
        self.step, self.loss = 0, ""
        self._inode, self._offset = 0, 0  # of the journal: its inode (force=true creates a new file) and the bytes read

    def read(self) -> None:
        """Read the new records. A missing or damaged journal is ignored, because the progress is only displayed."""
        try:
            inode = (self.folder / journal.NAME).stat().st_ino
            records, offset = journal.tail(self.folder, self._offset if self._inode == inode else 0)
        except (OSError, ValueError):
            return
        self._inode, self._offset = inode, offset
        for record in (record for record in records if isinstance(record, MetricsRecord)):
            self.step = record.step
            if "val/loss" in record.values:
                self.loss = f"{record.values['val/loss']:.4f}"


class Dashboard:
    """Shows the running tasks, the numbers of finished and failed runs, the best loss so far, and the remaining time.

    Args:
        total: number of runs in the sweep; ``done``: number of them that were finished before.
        steps: number of steps of each run, by folder.
        seconds: time estimate for all that is to run.
    """

    def __init__(self, total: int, done: int, steps: dict[Path, int], seconds: float) -> None:
        self.console = Console(file=sys.stderr)
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._total, self._done, self._failed = total, done, 0
        self._steps, self._estimate = steps, seconds
        self._started, self._finished_here = time.monotonic(), 0
        self._progress: dict[Task, RunProgress] = {}
        self._best: tuple[float, str] | None = None  # loss and title

    def __enter__(self) -> "Dashboard":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def add_run(self, folder: Path, steps: int) -> None:
        """Add a run that was not known at the start; ``steps`` is its number of steps."""
        self._steps[folder] = steps

    def expect(self, folder: Path, steps: int) -> None:
        """Add a run that was not known at the start to those that the sweep will do."""
        self.add_run(folder, steps)
        self._total += 1

    def run_pruned(self) -> None:
        """Count a run that was pruned: it does not continue, although it is not finished."""
        self._done += 1

    def print(self, text: str) -> None:
        """Print one line above the table."""
        self.console.print(text, soft_wrap=True)

    def run_ended(self, end: End, retried: bool) -> None:
        """Count the end of a run and print it. ``retried``: whether the run starts again."""
        shown = self._progress.pop(end.task, None)
        seconds = f" ({_clock(time.monotonic() - shown.started)})" if shown else ""
        message = self._count(end, retried, shown or RunProgress(end.task.folder))
        self.print(f"[{self._done + self._failed}/{self._total}] {end.task.title}: {message}{seconds}")

    def _count(self, end: End, retried: bool, progress: RunProgress) -> str:
        """Count the end of a run, and describe it."""
        result = RunFolder(end.task.folder).result()
        is_new = end.outcome.reached_goal  # otherwise it is the result of an earlier run, which force=true replaces
        if is_new and result and result.status is RunStatus.FINISHED and result.val_loss is not None:
            self._done, self._finished_here = self._done + 1, self._finished_here + 1
            loss = result.val_loss
            self._best = min(self._best or (loss, end.task.title), (loss, end.task.title))
            return f"val loss {loss:.4f}, {result.val_bpb:.4f} bits/byte"
        if end.outcome.reached_goal:
            progress.read()
            return f"paused at step {progress.step:,}"
        if end.outcome is AttemptOutcome.STOPPED:
            return f"stopped ({end.reason})"
        self._failed += not retried
        return f"{'failed, trying again' if retried else 'failed'}: {end.reason}"

    def update(self, running: Sequence[Task]) -> None:
        """Read the progress of the running tasks and draw the table."""
        for task in running:
            self._progress.setdefault(task, RunProgress(task.folder)).read()
        for task in [task for task in self._progress if task not in running]:
            del self._progress[task]
        if self.console.is_terminal:
            self._live.update(Group(self._table(), self._summary()), refresh=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        width = 24 if self.console.width > 100 else 12
        for task, progress in self._progress.items():
            total = self._steps.get(task.folder, 0)
            table.add_row(
                VisibleText(task.title),
                ProgressBar(total=max(1, total), completed=progress.step, width=width),
                VisibleText(f"step {progress.step:,}/{total:,}", no_wrap=True),
                VisibleText(f"val loss {progress.loss}" if progress.loss else "", no_wrap=True),
                VisibleText(_clock(time.monotonic() - progress.started), no_wrap=True),
            )
        return table

    def _summary(self) -> VisibleText:
        waiting = self._total - self._done - self._failed - len(self._progress)
        parts = [f"{self._done} done, {len(self._progress)} running, {waiting} waiting"]
        parts += [f"{self._failed} failed"] if self._failed else []
        parts += [f"best val loss {self._best[0]:.4f} ({self._best[1]})"] if self._best else []
        parts += [f"about {_clock(self._seconds_left(waiting))} left"] if waiting or self._progress else []
        return VisibleText(" · ".join(parts), "bold")

    def _seconds_left(self, waiting: int) -> float:
        """The seconds left, from the speed so far; before the first run is done, from the time estimate."""
        partial = sum(min(1.0, one.step / self._steps.get(task.folder, 1)) for task, one in self._progress.items())
        done, left = self._finished_here + partial, waiting + len(self._progress) - partial
        elapsed = time.monotonic() - self._started
        return left * elapsed / done if done >= 1 else max(0.0, self._estimate - elapsed)


def _clock(seconds: float) -> str:
    """Format seconds, such as 0:00:07."""
    return str(timedelta(seconds=round(seconds)))
