"""What computes with a run's own parts before the run: in processes apart, because a part may break in any way."""

import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from gptx.errors import reason
from gptx.processes import ending
from gptx.sweep import forks


def no_estimate(why: str) -> None:
    """The run itself may do better."""
    print(f"gptx: no estimate: {why}", file=sys.stderr)


def each(
    work: Callable[[Any], Any],
    items: Sequence[Any],
    seconds: float | None = None,
    many: int = 1,
    lost: Callable[[str], Any] = no_estimate,
) -> list[Any]:
    """``work`` of each item.

    Args:
        seconds: the most that one may take; None: as long as it likes.
        many: how many processes work side by side.
        lost: makes the result of one that raised, took too long or took its process with it, from a line that says so.
    """
    many = min(many, len(items))
    shares = [_Share(work, list(items[first::many]), seconds, lost) for first in range(many)]
    try:
        return [shares[i % many].next() for i in range(len(items))]
    finally:
        for share in shares:
            share.end()


class _Share:
    """Items that a process works off in order; where it breaks, a new one goes on with the next."""

    def __init__(
        self, work: Callable[[Any], Any], items: list[Any], seconds: float | None, lost: Callable[[str], Any]
    ) -> None:
        self.work, self.left, self.seconds, self.lost = work, items, seconds, lost
        self._begin()

    def _begin(self) -> None:
        self.told, telling = Pipe(duplex=False)
        self.process = forks.start(_child, self.work, self.left, telling, daemon=True)
        telling.close()

    def next(self) -> Any:
        """The result of the next item."""
        try:
            if self.told.poll(self.seconds):
                done, result = self.told.recv()
                del self.left[0]
                return result if done else self.lost(result)
            why = f"no answer within {self.seconds:g} s"
        except EOFError:
            self.process.join()
            why = f"it ends the process that tries it ({ending(self.process.exitcode or 0)})"
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
    forks.leash()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the sweep, which ends this process
    for item in items:
        try:
            told = True, work(item)
        except (Exception, SystemExit) as error:
            told = False, reason(error)
        telling.send(told)
