"""Processes that begin warm: forked from one that is kept in store and has torch loaded already (`gptx.sweep.warm`)."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from gptx.processes import die_with


def stock() -> None:
    """Let the one in store begin to load, which takes seconds, while something else is done."""
    if isinstance(_context(), ForkServerContext):
        with _one_thread():
            forkserver.ensure_running()


def start(target: Callable[..., None], *args: Any, daemon: bool = False) -> BaseProcess:
    """``target(*args)`` in a process of its own. ``daemon``: it is ended with this one, and starts none itself."""
    with _one_thread():
        process = _context().Process(target=target, args=args, daemon=daemon)
        process.start()
    return process


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads that a library starts when it is loaded would not survive the fork."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


def _context() -> ForkServerContext | SpawnContext:
    if sys.platform != "linux":  # a fork that has loaded torch may hang there
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gptx.sweep.warm"])
    return context


def leash() -> None:
    """First of all in a process that `start` has made: it gets SIGTERM when the one that asked for it dies, however."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if (alive := getattr(forkserver._forkserver, "_forkserver_alive_fd", None)) is not None:
        os.close(alive)  # every process has a copy, and the store would not end before the last of them
    die_with(os.getppid(), signal.SIGTERM)
    if not parent.is_alive():  # it died before the call
        os.kill(os.getpid(), signal.SIGTERM)
