"""Processes that never outlive the one that started them."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def die_with(parent: int, number: int) -> None:
    """Get signal ``number`` when process ``parent`` dies, however it dies (Linux; elsewhere this does nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), number)


def run_child(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit code (-n: ended by signal n).

    SIGINT and SIGTERM reach the child as SIGTERM each time they come, so that it ends in its own good order (or dies
    without a word, where it is still starting); then, with the child gone, they are raised here as KeyboardInterrupt
    or SystemExit. A terminal's Ctrl-C does not reach the child by itself: it is in a session of its own.
    """
    parent, got = os.getpid(), list[int]()
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: object) -> None:
        got.append(number)
        if child is not None:
            child.terminate()

    # Before the fork: an exception that a signal raises in the midst of it would be ignored, and with it the signal.
    saved = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=lambda: die_with(parent, signal.SIGTERM))
        if got:
            child.terminate()
        code = child.wait()
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
    if signal.SIGINT in got:
        raise KeyboardInterrupt
    if got:
        raise SystemExit(128 + got[0])
    return code


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list, so that what is in hand can be finished. A second one raises
    KeyboardInterrupt where the program stands, and more of them change nothing.

    A worker, which gets each from terminal and launcher, only notes them, and to the end of the process: one that
    dies while it waits for its launcher to collect it would leave the launcher waiting for ever.
    """
    seen: list[int] = []
    worker = "RANK" in os.environ

    def note(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) == 2 and not worker:
            raise KeyboardInterrupt

    saved = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in saved.items() if len(seen) < 2 and not worker else ():
            signal.signal(number, handler)


@contextmanager
def heeded_signals() -> Iterator[None]:
    """While something is waited for that need not be: a signal ends it, whatever came before."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)
