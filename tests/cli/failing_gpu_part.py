"""A part of the GPU benchmark whose cases end in every way."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.gpu.part import Part, Partial, Results, Row, Settings, Unsupported


@dataclass(frozen=True)
class Number:
    value: float
    wrong: str = ""

    @property
    def text(self) -> str:
        return f"found {self.value}"


def cases(settings: Settings) -> Mapping[str, str]:
    return {name: name for name in ("fine", "raises", "unsupported", "memory", "dies", "hangs", "wrong", "last")}


def measure(case: str, settings: Settings, partial: Partial) -> Number:
    if case == "raises":
        raise ValueError("no number\nsecond line")
    if case == "unsupported":
        raise Unsupported("there is none")
    if case == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
    if case == "dies":
        os.kill(os.getpid(), signal.SIGABRT)
    if case == "hangs":
        partial(Number(2))
        threading.Event().wait()
    return Number(float("inf") if case == "wrong" else 1.0, "it is infinite" if case == "wrong" else "")


def tables(rows: Sequence[Row], results: Results) -> str:
    raise KeyError("a fault of the table")


PART = Part("failing", "Cases that fail", 1, 3, cases, measure, tables)
