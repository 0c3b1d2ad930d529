"""Variants outside the package, as a user writes them: an attention that works, and kernels that fail on request."""

import ctypes
import os
import select
import signal
import sys
import time
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from gptx.attention.gqa import GQA
from gptx.geometry.attention_view import Keep, Score, View
from gptx.geometry.model_shape import ModelShape
from gptx.kernel.reference import Reference


class Scaled(GQA):
    """Multi-head attention whose output is scaled; ``gain`` is its own key."""

    def __init__(self, shape: ModelShape, *, gain: float) -> None:
        super().__init__(shape, n_kv_head=shape.n_head, qk_norm=False, softcap=0.0, bias=shape.bias)
        if gain < -2:
            ctypes.string_at(0)  # a segfault
        if gain < -1:
            sys.exit(0)
        if gain < 0:
            raise ArithmeticError("a gain below\nnothing")
        self.gain = gain

    def forward(self, x: Tensor, view: View, keep: Keep) -> Tensor:
        return super().forward(x, view, keep) * self.gain


class Fragile(Reference):
    """The reference kernel with failures in training, controlled by environment variables. Calls count from 1.

    RAISE_AT: raise in this call (on rank RAISE_RANK only, if that is given). NAN_AT: return NaN in these calls.
    PAUSE_AT: wait until the file PAUSE_IN/go exists, or until PAUSE_IN/go-after-signal exists and a signal has arrived;
    0: wait when the kernel is built; the check of the config is the first to build it.
    EXIT_AT: exit without a message. SLOW: wait so many seconds in each call.
    """

    def __init__(self, shape: ModelShape, demands: frozenset[str]) -> None:
        super().__init__(shape, demands)
        self.calls = 0
        if "PAUSE_AT" in os.environ:
            _signals()
        if os.environ.get("PAUSE_AT") == "0":
            _pause(Path(os.environ["PAUSE_IN"]))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        y = super().forward(q, k, v, mask, score)
        if not self.training or q.device.type == "meta" or q.dtype == torch.float64:  # float64: checks before training
            return y
        self.calls += 1
        time.sleep(float(os.environ.get("SLOW", "0")))
        if os.environ.get("PAUSE_AT") == str(self.calls):
            _pause(Path(os.environ["PAUSE_IN"]))
        if os.environ.get("EXIT_AT") == str(self.calls):
            os._exit(3)
        if os.environ.get("RAISE_AT") == str(self.calls) and _rank() == os.environ.get("RAISE_RANK", _rank()):
            raise RuntimeError("the kernel broke")
        return y * float("nan") if str(self.calls) in os.environ.get("NAN_AT", "").split(",") else y


class Troubled(Fragile):
    """A fragile kernel that fails in its 15th call; the key ``how`` chooses the failure."""

    def __init__(self, shape: ModelShape, demands: frozenset[str], *, how: str) -> None:
        super().__init__(shape, demands)
        self.fail = getattr(self, f"_{how}")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        y = super().forward(q, k, v, mask, score)
        if self.calls == 15 and self.training:
            self.fail()
        return y

    def _none(self) -> None:
        pass

    def _raise(self) -> None:
        raise RuntimeError("the kernel\nbroke")

    def _once(self) -> None:
        mark = Path(os.environ["PAUSE_IN"], "broken once")
        if not mark.exists():
            mark.touch()
            self._raise()

    def _exit(self) -> None:
        os._exit(7)

    def _segfault(self) -> None:
        ctypes.string_at(0)

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _hang(self) -> None:
        while True:
            signal.pause()

    def _memory(self) -> None:
        blocks = []
        while len(blocks) < 37:  # at most 2.5 GB, even if the watchdog is slow
            blocks.append(bytearray(os.urandom(2**20)) * 64)
            time.sleep(0.05)
        self._hang()


def _rank() -> str:
    return os.environ.get("RANK", "0")


def _pause(folder: Path) -> None:
    part = folder / f"part-{os.getpid()}"
    part.write_text(str(os.getpid()))
    part.rename(folder / f"paused-{_rank()}")
    while not ((folder / "go").exists() or ((folder / "go-after-signal").exists() and _signal_arrived())):
        time.sleep(0.002)


@cache
def _signals() -> int:
    """Return the reading end of a pipe that gets a byte for each signal with a handler in this process."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _signal_arrived() -> bool:
    return bool(select.select([_signals()], [], [], 0)[0])
