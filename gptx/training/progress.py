"""The display during training: a progress bar on a terminal, and lines above it; elsewhere lines only."""

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptx.console import Console
from gptx.errors import RunFailed

REFRESH = 0.1  # seconds between two redraws of the bar
LINE_EVERY = 30.0  # seconds after which a log gets a line, if there is no validation
_FIGURES = 66  # columns that steps, loss, speed, time and a short bar take


class ProgressBar:
    """Step, losses, tokens/s and remaining time, on stderr.

    A line is printed for every validation. Where stderr is not a terminal, lines also have the speed, the percentage
    and the time left, and at least one is printed in `LINE_EVERY` seconds.

    Args:
        total, done: steps.
        enabled: False on all ranks but rank 0: nothing is shown.
        brief: whether to print no lines.
    """

    def __init__(self, name: str, total: int, done: int, enabled: bool, brief: bool = False) -> None:
        self.console = Console(file=sys.stderr)
        self.total, self.done = total, done
        self.live, self.lines = enabled and self.console.is_terminal, enabled and not brief
        self.drawn = 0.0
        self.started = self.printed = time.monotonic()
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

    def update(self, step: int, values: Mapping[str, float], best: bool) -> None:
        """Show the metrics of a step.

        Args:
            values: those of the journal's record. "train/loss" is missing if all steps were skipped, and the keys
                "val/..." if the step has no validation.
            best: whether the validation loss is the lowest so far.

        Raises:
            RunFailed: stderr is a pipe whose reader has ended.
        """
        now, validated = time.monotonic(), "val/loss" in values
        if self.live and (now - self.drawn > REFRESH or step == self.total):
            self.drawn = now
            speed = f"{values['perf/tokens_per_s']:,.0f}"
            self.bar.update(self.task, completed=step, loss=_loss(values), speed=speed, refresh=True)
        if self.lines and (validated or (not self.live and now - self.printed > LINE_EVERY)):
            self.printed = now
            self._print(self._line(step, values, validated and best))

    def _line(self, step: int, values: Mapping[str, float], best: bool) -> str:
        count = f"step {step:>6}" if self.live else f"step {step:>{len(str(self.total))}}/{self.total}"
        parts = [count, f"train loss {_loss(values)}"]
        if "val/loss" in values:
            parts += [f"val loss {values['val/loss']:.4f}", f"{values['val/bpb']:.4f} bits/byte{' (best)' * best}"]
        if not self.live:
            left = (time.monotonic() - self.started) / (step - self.done) * (self.total - step)
            parts.insert(1, f"{step / self.total:>4.0%}")
            parts += [f"{values['perf/tokens_per_s']:,.0f} tokens/s", f"{timedelta(seconds=round(left))} left"]
        return "   ".join(parts)

    def _print(self, line: str) -> None:
        try:
            self.console.print(line, soft_wrap=True)
        except SystemExit as end:  # rich raises it for a broken pipe
            raise RunFailed("the reader of the output ended; the same command resumes the run") from end


def _loss(values: Mapping[str, float]) -> str:
    """The mean training loss since the last record."""
    return f"{values['train/loss']:.4f}" if "train/loss" in values else "-"
