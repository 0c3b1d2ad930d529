"""Signals that stop a run: blocked while a process starts, and recorded while it trains."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

WARNING_SIGNALS = {signal.SIGUSR1, signal.SIGUSR2}  # a scheduler sends one shortly before its time limit
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, *WARNING_SIGNALS}


def block_warning_signals() -> None:
    """Block the warning signals of a scheduler in this process and, because the signal mask is inherited, in every
    process that it starts. A blocked signal stays pending until `unblocked_stop_signals`, so it cannot end a process
    that has not installed its handlers yet."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WARNING_SIGNALS)


@contextmanager
def unblocked_stop_signals() -> Iterator[None]:
    """Unblock all stop signals within the block: pending ones are delivered on entry."""
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def count_stop_requests(received: Sequence[int]) -> int:
    """Return how many of the received signals ask for a stop now; a scheduler's warning does not count."""
    return sum(number not in WARNING_SIGNALS for number in received)


@contextmanager
def record_stop_signals() -> Iterator[list[int]]:
    """Append each stop signal to the list that is returned, so that the program can finish the current step. A second
    SIGINT or SIGTERM raises KeyboardInterrupt at once, and further ones have no effect.

    A worker receives the same signal from the scheduler, the terminal and the launcher. Therefore it only records them,
    until the process ends: after the block its work is done, and a late signal must not make it appear lost.
    """
    received: list[int] = []
    is_worker = "RANK" in os.environ

    def record(number: int, frame: object) -> None:
        if count_stop_requests(received) < 2:  # held keys repeat Ctrl-C fast: limit the list
            received.append(number)
            if not is_worker and count_stop_requests(received) == 2:
                raise KeyboardInterrupt(received[0])

    handlers = {number: signal.signal(number, record) for number in STOP_SIGNALS}
    if is_worker:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        yield received
        return
    try:
        with unblocked_stop_signals():
            yield received
    finally:
        if count_stop_requests(received) < 2:
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def default_stop_signals() -> Iterator[None]:
    """Restore Python's default SIGINT and SIGTERM handlers within the block, so that either signal ends a wait that is
    optional, even when a stop was requested before."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
