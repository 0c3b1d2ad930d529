"""Call functions that use a run's own classes in isolated processes, because user code may crash or hang."""

import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from gptx.errors import reason
from gptx.processes.children import describe_exit
from gptx.sweep.execute import prewarm

Item = TypeVar("Item")
Value = TypeVar("Value")
Failure = TypeVar("Failure")

TIMEOUT = 120.0  # seconds; a typical call takes about one
MAX_PROCESSES = 8  # each of them has torch loaded


def map_isolated(
    function: Callable[[Item], Value],
    items: Sequence[Item],
    on_failure: Callable[[str], Failure],
    timeout: float = TIMEOUT,
    sequential: bool = False,
    key: Callable[[Item], object] = lambda _: None,
) -> list[Value | Failure]:
    """Call a function for each item in isolated processes, several at once.

    Args:
        function: must be importable, because other processes call it.
        on_failure: makes the result for an item whose call raised, timed out or ended its process, from the reason in
            one line.
        timeout: seconds for each call.
        sequential: one call at a time, for measurements that other calls would disturb.
        key: items whose keys differ have different processes, so that none has the modules of another.

    Returns:
        The results in the order of the items.
    """
    import torch  # noqa: F401 - loaded once here, and not in each process that is forked below

    from gptx.hardware.cpu import cores

    count = 1 if sequential else min(len(items), cores(), MAX_PROCESSES)
    workers = [_Worker(function, list(items[i::count]), on_failure, timeout, key) for i in range(count) if items]
    try:
        return [workers[i % count].next_result() for i in range(len(items))]
    finally:
        for worker in workers:
            worker.kill()


@dataclass(frozen=True)
class _Answer:
    """The answer of the isolated process for one item: the value, or the reason why the call raised."""

    value: Any = None
    error: str | None = None


class _Worker:
    """An isolated process that works on its items in order. A new one continues if it dies, or if the next item has
    another key."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        items: list[Any],
        on_failure: Callable[[str], Any],
        timeout: float,
        key: Callable[[Any], object],
    ) -> None:
        self.function, self.items, self.on_failure, self.timeout, self.key = function, items, on_failure, timeout, key
        self._start()

    def _start(self) -> None:
        self.started_for = self.key(self.items[0])
        alike = list(takewhile(lambda item: self.key(item) == self.started_for, self.items))
        self.answers, answers = Pipe(duplex=False)
        self.process = prewarm.start_process(call_each, self.function, alike, answers, daemon=True)
        answers.close()

    def next_result(self) -> Any:
        """The result for the next item."""
        if self.key(self.items[0]) != self.started_for:
            self.kill()
            self._start()
        try:
            if self.answers.poll(self.timeout):
                answer: _Answer = self.answers.recv()
                del self.items[0]
                return answer.value if answer.error is None else self.on_failure(answer.error)
            why = f"no answer within {self.timeout:g} s"
        except (EOFError, OSError):  # the process died, perhaps while it was sending an answer
            self.process.join()
            why = f"its code crashed the process ({describe_exit(self.process.exitcode or 0)})"
        self.kill()
        del self.items[0]
        if self.items:
            self._start()
        return self.on_failure(why)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.answers.close()


def call_each(function: Callable[[Any], Any], items: Sequence[Any], answers: Connection) -> None:
    """Send an answer for each item. This function runs in the isolated process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the sweep, which ends this process
    prewarm.end_with_parent()
    with suppress(BrokenPipeError):  # the sweep has died
        for item in items:
            try:
                answer = _Answer(function(item))
            except (Exception, SystemExit) as error:
                answer = _Answer(error=reason(error))
            answers.send(answer)
