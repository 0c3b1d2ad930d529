"""Child processes that end when their parent ends."""

import ctypes
import os
import signal
import sys


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
