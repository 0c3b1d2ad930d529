"""The display during training: a progress bar on a terminal, one line for each validation elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptx.console import Console
from gptx.errors import RunFailed

REFRESH = 0.1  # seconds between two redraws
_FIGURES = 66  # columns that steps, loss, speed, time and a short bar take


class ProgressBar:
    """Step, loss, tokens/s and remaining time, on stderr.

    Args:
        total, done: steps.
        enabled: False on all ranks but rank 0: nothing is shown.
    """

    def __init__(self, name: str, total: int, done: int, enabled: bool) -> None:
        self.console = Console(file=sys.stderr)
        self.enabled, self.total = enabled, total
        self.live = enabled and self.console.is_terminal
        self.drawn = 0.0
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tok/s"),
            TimeRemainingColumn(),
            console=self.console,
            auto_refresh=False,  # a refreshing thread would slow training down
            transient=True,
            expand=True,
        )
        room = max(1, self.console.width - _FIGURES)
        name = name if len(name) <= room else f"{name[: room - 1]}…"
        self.task = self.bar.add_task(name, total=total, completed=done, loss="-", speed="-")

    def __enter__(self) -> Self:
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self.live:
            self.bar.stop()

    def update(self, step: int, loss: float, speed: float) -> None:
        """Show the mean loss since the last update and the speed in tokens/s."""
        now = time.monotonic()
        if self.live and (now - self.drawn > REFRESH or step == self.total):
            self.drawn = now
            self.bar.update(self.task, completed=step, loss=f"{loss:.4f}", speed=f"{speed:,.0f}", refresh=True)

    def print(self, line: str) -> None:
        """Print a line above the bar.

        Raises:
            RunFailed: stderr is a pipe whose reader has ended.
        """
        if self.enabled:
            try:
                self.console.print(line, soft_wrap=True)
            except SystemExit as end:  # rich raises it for a broken pipe
                raise RunFailed("the reader of the output ended; the same command resumes the run") from end
