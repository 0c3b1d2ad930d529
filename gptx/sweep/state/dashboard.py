"""What a sweep shows while it runs: a live table on a terminal, a line an end elsewhere."""

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gptx.runs import journal
from gptx.runs.folder import RunFolder
from gptx.runs.records import MetricsRecord, RunStatus
from gptx.sweep.execute.launcher import End, Task


class Pulse:
    """How far a run is, by its journal."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.began = folder, time.monotonic()
        self.step, self.loss, self._read = 0, "", (0, 0)  # which file, and how far

    def look(self) -> None:
        """Whatever lies there: it is but shown. The journal is another one after force=true."""
        try:
            file = (self.folder / journal.NAME).stat().st_ino
            records, offset = journal.tail(self.folder, self._read[1] if self._read[0] == file else 0)
        except (OSError, ValueError):
            return
        self._read = file, offset
        for record in (record for record in records if isinstance(record, MetricsRecord)):
            self.step = record.step
            if "val/loss" in record.values:
                self.loss = f"{record.values['val/loss']:.4f}"


class Board:
    """Running, done, failed, best so far, time left.

    Args:
        total: how many runs the sweep has; ``done``: of them, finished before.
        steps: steps of a run, by its folder.
        seconds: what all that is to run was thought to take.
    """

    def __init__(self, total: int, done: int, steps: dict[Path, int], seconds: float) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._total, self._done, self._failed = total, done, 0
        self._steps, self._seconds = steps, seconds
        self._began, self._ended = time.monotonic(), 0
        self._pulses: dict[Task, Pulse] = {}
        self._best: tuple[float, str] | None = None

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def expect(self, folder: Path, steps: int) -> None:
        """A run, and how many steps it has."""
        self._steps[folder] = steps

    def passed(self) -> None:
        """A run will not go on, though it is not finished."""
        self._done += 1

    def say(self, text: str) -> None:
        """One line above the table."""
        self.console.print(text, soft_wrap=True, markup=False)

    def ended(self, end: End, again: bool) -> None:
        """A run has ended; ``again``: it is tried once more."""
        seen = self._pulses.pop(end.task, None)
        took = f" ({_clock(time.monotonic() - seen.began)})" if seen else ""
        pulse = seen or Pulse(end.task.folder)
        pulse.look()
        result = RunFolder(end.task.folder).result()
        if result and result.status == RunStatus.FINISHED and result.val_loss is not None:
            self._done, self._ended = self._done + 1, self._ended + 1
            loss = result.val_loss
            told = f"val loss {loss:.4f}, {result.val_bpb:.4f} bits/byte"
            self._best = min(self._best or (loss, end.task.title), (loss, end.task.title))
        elif not end.reason:
            told = f"as far as asked, step {pulse.step:,}"
        elif end.reason.startswith("stopped"):  # with the sweep, and not by a bound
            told = end.reason
        else:
            self._failed += not again
            told = f"{'tried again' if again else 'failed'}: {end.reason}"
        self.say(f"[{self._done + self._failed}/{self._total}] {end.task.title}: {told}{took}")

    def draw(self, running: Sequence[Task]) -> None:
        """As things stand."""
        for task in running:
            self._pulses.setdefault(task, Pulse(task.folder)).look()
        for task in [task for task in self._pulses if task not in running]:
            del self._pulses[task]
        if self.console.is_terminal:
            self._live.update(Group(self._table(), self._sum()), refresh=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for task, pulse in self._pulses.items():
            total = self._steps.get(task.folder, 0)
            steps = f"{pulse.step:,}/{total:,}"
            bar = ProgressBar(total=max(1, total), completed=pulse.step, width=24)
            loss = f"val loss {pulse.loss}" if pulse.loss else ""
            table.add_row(
                Text(task.title, overflow="ellipsis", no_wrap=True),
                bar,
                steps,
                loss,
                _clock(time.monotonic() - pulse.began),
            )
        return table

    def _sum(self) -> Text:
        to_come = self._total - self._done - self._failed - len(self._pulses)
        said = f"{self._done} done, {len(self._pulses)} running, {to_come} to come"
        parts = [said, *([f"{self._failed} failed"] if self._failed else [])]
        parts += [f"best {self._best[0]:.4f} ({self._best[1]})"] if self._best else []
        return Text(" · ".join([*parts, f"about {_clock(self._left(to_come))} left"]), "bold")

    def _left(self, to_come: int) -> float:
        """By what it has done so far; before that, by what was thought."""
        part = sum(min(1.0, pulse.step / self._steps.get(task.folder, 1)) for task, pulse in self._pulses.items())
        behind, ahead = self._ended + part, to_come + len(self._pulses) - part
        passed = time.monotonic() - self._began
        return ahead * passed / behind if behind >= 1 else max(0.0, self._seconds - passed)


def _clock(seconds: float) -> str:
    """0:00:07."""
    return str(timedelta(seconds=round(seconds)))
