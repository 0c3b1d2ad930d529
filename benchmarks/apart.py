"""Timing in a process of its own: what one arm does to the allocator or to torch's settings, no other feels."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from gptx.errors import RunFailed

Found = TypeVar("Found")


def apart(work: Callable[..., Found], *given: Any, advice: str = "") -> Found:
    """``work(*given)``, made in a fresh process.

    Raises:
        RunFailed: the process died; ``advice`` ends the message.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(work, *given).result()
        except BrokenProcessPool:
            raise RunFailed(f"a timed process died: too little memory for it?{advice}") from None
