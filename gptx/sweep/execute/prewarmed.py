"""Processes forked from one that has loaded torch already (see `gptx.sweep.execute.prewarm`)."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from gptx.processes.children import die_with_parent


def stock() -> None:
    """Let the one in store begin to load, which takes seconds, while something else is done."""
    if isinstance(_context(), SpawnContext):
        return
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # threads that a library starts when it is loaded would not survive the fork
    resource_tracker.ensure_running()  # else the forkserver brings it along, and that unblocks SIGINT
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which is not for it: it would say so at length
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


def clear() -> None:
    """End the one in store: while it loads it holds this command's output open, and whoever reads that would wait."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start(target: Callable[..., None], *args: Any, daemon: bool = False) -> BaseProcess:
    """``target(*args)`` in a process of its own. ``daemon``: it is ended with this one, and starts none itself."""
    stock()
    process = _context().Process(target=target, args=args, daemon=daemon)
    process.start()
    return process


def _context() -> ForkServerContext | SpawnContext:
    if sys.platform != "linux":  # a fork that has loaded torch may hang there
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gptx.sweep.execute.prewarm"])
    return context


def leash() -> None:
    """At the beginning of a process that `start` has made: it hears SIGINT from now on, to which the store is deaf, and
    gets SIGTERM when the one that asked for it dies, however."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent is not None
    if (alive := getattr(forkserver._forkserver, "_forkserver_alive_fd", None)) is not None:
        os.close(alive)  # every process has a copy, and the store would not end before the last of them
    die_with_parent(os.getppid(), signal.SIGTERM)
    if not parent.is_alive():  # it died before the call
        os.kill(os.getpid(), signal.SIGTERM)
