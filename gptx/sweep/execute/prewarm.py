"""Prewarmed processes: forked from a server that has already loaded torch, so that they start seconds earlier.

The server is multiprocessing's fork server, which imports `gptx.sweep.execute.prewarm_imports`.
"""

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


def start_server() -> None:
    """Start the fork server if it is not running. It loads torch in the background, which takes seconds."""
    if isinstance(_context(), SpawnContext):
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # threads that a library starts while it loads would not survive the fork
    resource_tracker.ensure_running()  # otherwise the fork server starts it, which unblocks SIGINT
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C would print a traceback of the server
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ.pop("OMP_NUM_THREADS") if threads is None else os.environ.update(OMP_NUM_THREADS=threads)


def stop_server() -> None:
    """Kill the fork server. While it loads, it holds this command's output open, and a reader would wait for it."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def start_process(target: Callable[..., None], *args: Any, daemon: bool = False) -> BaseProcess:
    """Run ``target(*args)`` in a prewarmed process.

    Args:
        daemon: the process ends with this one and cannot start child processes.
    """
    start_server()
    process = _context().Process(target=target, args=args, daemon=daemon)
    process.start()
    return process


def end_with_parent() -> None:
    """Receive SIGTERM when the process that called `start_process` dies, for whatever reason.

    The new process calls this first. It also unblocks SIGINT, which is blocked in the fork server, and discards a
    Ctrl-C of the terminal that came before: the sweep receives it, too, and ends this process.
    """
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # discards pending ones
    signal.signal(signal.SIGINT, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent is not None
    if (alive := getattr(forkserver._forkserver, "_forkserver_alive_fd", None)) is not None:
        os.close(alive)  # the fork server runs until the last copy of this descriptor is closed
    die_with_parent(os.getppid(), signal.SIGTERM)
    if not parent.is_alive():  # it died before the call above
        os.kill(os.getpid(), signal.SIGTERM)


def _context() -> ForkServerContext | SpawnContext:
    if sys.platform != "linux":  # on other systems a fork of a process that has loaded torch may hang
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gptx.sweep.execute.prewarm_imports"])
    return context
