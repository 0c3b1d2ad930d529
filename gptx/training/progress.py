"""What a training run shows: a bar on a terminal, a line a validation elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Step, loss, tokens/s and time left. Silent on every rank but the first."""

    def __init__(self, name: str, total: int, done: int, enabled: bool) -> None:
        self.console = Console(file=sys.stderr, highlight=False)
        self.enabled, self.total = enabled, total
        self.live = enabled and self.console.is_terminal
        self.drawn = 0.0
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[speed]} tok/s"),
            TimeRemainingColumn(),
            console=self.console,
            auto_refresh=False,  # a refreshing thread would take time from the training
            transient=True,
            expand=True,
        )
        self.task = self.bar.add_task(name, total=total, completed=done, loss="-", speed="-")

    def __enter__(self) -> "Bar":
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self.live:
            self.bar.stop()

    def update(self, step: int, loss: float, speed: float) -> None:
        """Redraws at most ten times a second."""
        now = time.monotonic()
        if self.live and (now - self.drawn > 0.1 or step == self.total):
            self.drawn = now
            self.bar.update(self.task, completed=step, loss=f"{loss:.4f}", speed=f"{speed:,.0f}", refresh=True)

    def say(self, text: str) -> None:
        """One line above the bar."""
        if self.enabled:
            self.console.print(text, soft_wrap=True, markup=False)
