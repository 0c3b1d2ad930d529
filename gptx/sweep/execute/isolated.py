"""What computes with a run's own parts before the run: in processes apart, because a part may break in any way."""

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from gptx.errors import reason
from gptx.processes.children import describe_exit
from gptx.sweep.execute import prewarmed

PATIENCE = 120.0  # seconds for what takes about one
MOST = 8  # processes, each of which holds torch


def each(
    work: Callable[[Any], Any],
    items: Sequence[Any],
    lost: Callable[[str], Any],
    seconds: float = PATIENCE,
    alone: bool = False,
) -> list[Any]:
    """``work`` of each item, some side by side.

    Args:
        lost: makes the result of an item that raised, had no answer in time or took its process with it, from a line
            that says so.
        seconds: how long an answer is waited for.
        alone: one at a time, with nothing beside it.
    """
    from gptx.hardware.device import cores  # and with it torch

    many = 1 if alone else min(len(items), cores(), MOST)
    shares = [_Share(work, list(items[first::many]), lost, seconds) for first in range(many) if items]
    try:
        return [shares[i % many].next() for i in range(len(items))]
    finally:
        for share in shares:
            share.end()


class _Share:
    """Items that a process works off in order; where it breaks, a new one goes on with the next."""

    def __init__(
        self, work: Callable[[Any], Any], items: list[Any], lost: Callable[[str], Any], seconds: float
    ) -> None:
        self.work, self.left, self.lost, self.seconds = work, items, lost, seconds
        self._begin()

    def _begin(self) -> None:
        self.told, telling = Pipe(duplex=False)
        self.process = prewarmed.start(_child, self.work, self.left, telling, daemon=True)
        telling.close()

    def next(self) -> Any:
        """The result of the next item."""
        try:
            if self.told.poll(self.seconds):
                done, result = self.told.recv()
                del self.left[0]
                return result if done else self.lost(result)
            why = f"no answer within {self.seconds:g} s"
        except (EOFError, OSError):  # the other end is gone, maybe in the midst of a message
            self.process.join()
            why = f"it ends the process that tries it ({describe_exit(self.process.exitcode or 0)})"
        self.end()
        del self.left[0]
        if self.left:
            self._begin()
        return self.lost(why)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.told.close()


def _child(work: Callable[[Any], Any], items: Sequence[Any], telling: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the sweep, which ends this process
    prewarmed.leash()
    with suppress(BrokenPipeError):  # whoever asked is gone
        for item in items:
            try:
                told = True, work(item)
            except (Exception, SystemExit) as error:
                told = False, reason(error)
            telling.send(told)
