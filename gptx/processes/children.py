"""How processes end: child processes end with their parent, ranks without finalizing the interpreter."""

import contextlib
import ctypes
import os
import signal
import sys
from typing import NoReturn


def describe_exit(code: int) -> str:
    """Return how a process ended, from the exit code of multiprocessing or subprocess (-n: killed by signal n)."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def die_with_parent(parent: int, number: int) -> None:
    """Have the kernel send signal ``number`` to this process when process ``parent`` dies, even after SIGKILL. Linux
    only; elsewhere this does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # the parent died before the call
            os.kill(os.getpid(), number)


def end_rank(code: int) -> NoReturn:
    """Write buffered output and end this process, one rank of several, without finalizing the interpreter.

    A thread of gloo may release the tensors of a finished collective late. If the interpreter is being finalized then,
    the thread cannot get Python's lock, and the process aborts (SIGABRT). After an error, destructors of a broken
    process group may wait for peers that have ended.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it
            stream.flush()
    os._exit(code)
