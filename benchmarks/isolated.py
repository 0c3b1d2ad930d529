"""Measure in a separate process: a measurement cannot change the allocator or the torch settings of the next one."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from gptx.errors import RunFailed

Result = TypeVar("Result")


def run_isolated(work: Callable[..., Result], *arguments: Any, advice: str = "") -> Result:
    """Return ``work(*arguments)``, computed in a new process.

    Raises:
        RunFailed: the process died; the error message ends with ``advice``.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(work, *arguments).result()
        except BrokenProcessPool:
            raise RunFailed(f"a measuring process died; not enough memory?{advice}") from None
