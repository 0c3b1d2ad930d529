"""CPU cores, threads, and how the C heap treats freed memory. Without torch."""

import ctypes
import os
import platform


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(given: int, processes: int) -> int:
    """Return the CPU threads of each of ``processes`` on this machine: ``given``, or an equal part of
    the cores if it is 0."""
    return given or max(1, cores() // processes)


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks instead of returning them to the system, which would fault in the pages of
    each new activation again: a step of a GPT-2-sized model takes 20 % less time and 10 % more memory. No effect
    without glibc."""
    _mallopt(mmap_max=0, trim_threshold=-1)


def return_freed_memory() -> None:
    """Let glibc return large freed blocks to the system, for strategies that gather and free weights all the time: they
    would otherwise fragment the heap and use more memory than without freeing. No effect without glibc."""
    _mallopt(mmap_threshold=2**20, trim_threshold=2**20)


def _mallopt(**options: int) -> None:
    if platform.libc_ver()[0] == "glibc":
        numbers = {"trim_threshold": -1, "mmap_threshold": -3, "mmap_max": -4}
        for name, value in options.items():
            ctypes.CDLL(None).mallopt(numbers[name], value)
