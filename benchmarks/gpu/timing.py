"""Seconds that the device needs for a piece of work."""

import time
from collections.abc import Callable

import torch


def seconds_per_call(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Call ``work`` for at least ``least`` seconds, after a warm-up, and return the mean seconds of a call: on a GPU
    the time between two events of its stream, so that the launch of kernels counts only if the GPU waits for it."""
    for _ in range(2):
        work()
    once = _seconds(work, device, 1)
    return _seconds(work, device, max(1, round(least / max(once, 1e-6))))


def _seconds(work: Callable[[], object], device: torch.device, calls: int) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - start) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(calls):
        work()
    last.record()
    torch.cuda.synchronize(device)
    return float(first.elapsed_time(last)) / 1e3 / calls
