"""What computes with a run's own parts before the run: in a process apart, because a part may break in any way."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from gptx.sweep import forks


def each(work: Callable[[Any], Any], items: Sequence[Any], seconds: float) -> Iterator[Any]:
    """``work`` of each item, in order; None where it raised, took longer than so many seconds, or took its process
    with it: then the next item gets a new one."""
    left = list(items)
    while left:
        told, telling = multiprocessing.Pipe(duplex=False)
        process = forks.start(_child, work, left, telling, daemon=True)
        telling.close()
        try:
            while left and told.poll(seconds):
                result = told.recv()
                left.pop(0)
                yield result
        except EOFError:
            pass
        finally:
            process.kill()
            process.join()
            told.close()
        if left:
            left.pop(0)
            yield None


def _child(work: Callable[[Any], Any], items: Sequence[Any], telling: Connection) -> None:
    forks.leash()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the sweep, which ends this process
    for item in items:
        try:
            found = work(item)
        except Exception as error:  # the run itself may do better
            print(f"gptx: no estimate: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            found = None
        telling.send(found)
