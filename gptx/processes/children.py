"""Processes that never outlive the one that started them, and what a signal asks of those that train."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

WARNINGS = {signal.SIGUSR1, signal.SIGUSR2}  # how a scheduler says that the time is nearly over
STOPS = {signal.SIGINT, signal.SIGTERM, *WARNINGS}
EXIT_RESUMABLE = 75  # EX_TEMPFAIL: the same command goes on


def hold_warnings() -> None:
    """From here on a scheduler's warning kills nobody: neither this process nor those that it starts, which inherit
    the mask. It waits until somebody listens."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)


@contextmanager
def listening() -> Iterator[None]:
    """What was held back is heard in here."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_code(number: int) -> int:
    """Of a command that signal ``number`` ended in good order; 0: one of its workers got it, and that one alone."""
    return 128 + number if number in (signal.SIGINT, signal.SIGHUP) else EXIT_RESUMABLE


def ending(code: int) -> str:
    """What a process ended with, as multiprocessing and subprocess have it."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def insisted(seen: Sequence[int]) -> int:
    """How often a stop was asked for; a warning is none."""
    return sum(number not in WARNINGS for number in seen)


def die_with(parent: int, number: int) -> None:
    """Get signal ``number`` when process ``parent`` dies, however it dies (Linux; elsewhere this does nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), number)


def run_child(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit code (-n: ended by signal n).

    SIGINT, SIGTERM and a scheduler's warnings reach the child as SIGTERM each time they come, so that it ends in its
    own good order (or dies without a word, where it is still starting); then, with the child gone, they are raised here
    as KeyboardInterrupt or SystemExit. A terminal's Ctrl-C does not reach the child by itself: it is in a session of
    its own.
    """
    parent, got = os.getpid(), list[int]()
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: object) -> None:
        got.append(number)
        if child is not None:
            child.terminate()

    # Before the fork: an exception that a signal raises in the midst of it would be ignored, and with it the signal.
    saved = {number: signal.signal(number, hand_on) for number in STOPS}
    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=lambda: die_with(parent, signal.SIGTERM))
        if got:
            child.terminate()
        with listening():
            code = child.wait()
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
    if signal.SIGINT in got:
        raise KeyboardInterrupt
    if got:
        raise SystemExit(exit_code(got[0]))
    return code


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Signals that ask for a stop are noted in the list, so that what is in hand can be finished. A second SIGINT or
    SIGTERM raises KeyboardInterrupt where the program stands, and more of them change nothing.

    A worker, which gets each from scheduler, terminal and launcher, only notes them, and to the end of the process: its
    work is done by then, and is not to count as lost.
    """
    seen: list[int] = []
    worker = "RANK" in os.environ

    def note(number: int, frame: object) -> None:
        if insisted(seen) < 2:  # a held Ctrl-C comes faster than a list that grows with it is counted
            seen.append(number)
            if not worker and insisted(seen) == 2:
                raise KeyboardInterrupt(seen[0])

    saved = {number: signal.signal(number, note) for number in STOPS}
    if worker:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        yield seen
        return
    try:
        with listening():
            yield seen
    finally:
        for number, handler in saved.items() if insisted(seen) < 2 else ():
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
