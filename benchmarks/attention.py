"""What is timed: attention of one layer through gptx's own kernels, forward and backward, on random queries, keys and
values. The mask is made once before: a model makes it once a forward for all its layers."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptx.config.compose import compose
from gptx.config.instantiate import part
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.view import Score
from gptx.geometry.visibility import Where
from gptx.hardware.cpu import keep_freed_memory
from gptx.hardware.description import peak_memory
from gptx.hardware.device import autocast, compute_dtype, pick
from gptx.kernel.auto import Auto
from gptx.kernel.base import Kernel
from gptx.kernel.cost import counted


@dataclass
class Case:
    """``window`` 0 is the whole past; ``bias`` is ALiBi's."""

    heads: int
    dim: int
    context: int
    window: int
    bias: bool
    dtype: str
    batch: int
    device: torch.device
    made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        window = ["window=sliding", f"window.size={self.window}"] if self.window else ["window=full"]
        cfg = compose([f"pos={'alibi' if self.bias else 'none'}", *window])
        self.shape = ModelShape(1, self.heads, self.heads * self.dim, self.context, 1, 0.0, False)
        self.sees = part(cfg.window)
        self.pos = part(cfg.pos, self.shape, self.dim, self.heads).to(self.device)
        self.cast = compute_dtype(self.dtype, self.device)

    def kernel(self, name: str) -> Kernel:
        if name not in self.made:
            self.made[name] = part(compose([f"kernel={name}"]).kernel, self.shape, frozenset())
        found: Kernel = self.made[name]
        return found

    def serves(self, name: str) -> bool:
        slow = name == "flash" and self.dtype == "fp32"
        return not slow and self.kernel(name).refuses(self.sees, self.pos, self.device.type) is None

    def weights(self, name: str) -> int:
        """Bytes of (T, T) tensors that a kernel makes: a row's weights with their gradients, or its mask."""
        dense = self.context**2 * 4
        if name == "reference":
            return 4 * self.batch * self.heads * dense
        masked = name == "sdpa" and (self.bias or 0 < self.window < self.context)
        return (self.heads if self.bias else 1) * dense if masked else 0

    def chosen(self) -> str:
        """The kernel that kernel=auto takes."""
        auto = self.kernel("auto")
        assert isinstance(auto, Auto)
        with autocast(self.device, self.cast):
            return auto.choose(self.where, self.sees, self.pos)

    def counted(self, name: str) -> tuple[str, tuple[float, float, float]]:
        """The row of `gptx.kernel.cost` that holds, and the milliseconds of one nanosecond of each of its constants."""
        row, pairs = counted(name, self.where, self.sees, self.pos)
        scale = self.heads * self.batch / 1e6
        return row, (self.dim * self.context * scale, pairs * scale, pairs * self.dim * scale)

    @property
    def where(self) -> Where:
        return Where.rows(self.context, self.device)

    def mask(self, name: str) -> object:
        with autocast(self.device, self.cast):
            return self.kernel(name).mask(self.where, self.sees, self.pos)

    def inputs(self) -> list[Tensor]:
        size = (self.batch, self.context, self.heads, self.dim)
        stream = torch.Generator(self.device).manual_seed(0)
        made = (torch.randn(size, generator=stream, device=self.device, dtype=self.cast) for _ in range(4))
        return [x.requires_grad_(number < 3) for number, x in enumerate(made)]  # q, k, v, and the output's gradient

    def step(self, name: str, mask: object, inputs: list[Tensor]) -> None:
        q, k, v, gradient = inputs
        with autocast(self.device, self.cast):
            y = self.kernel(name)(q, k, v, mask, Score(self.dim**-0.5))
        torch.autograd.grad(y, (q, k, v), gradient)


def best(case: Case, kernel: str, rounds: int, seconds: float = 0.05) -> float:
    """Milliseconds of the fastest of some rounds of at least ``seconds``: CPU time of this process, or a GPU's time."""
    mask, inputs = case.mask(kernel), case.inputs()
    case.step(kernel, mask, inputs)
    took, steps = _time(case, kernel, mask, inputs, 1), 1
    if took < seconds:
        steps = round(seconds / max(took, 1e-4)) + 1
    return min(_time(case, kernel, mask, inputs, steps) / steps for _ in range(rounds)) * 1e3


def _time(case: Case, kernel: str, mask: object, inputs: list[Tensor], steps: int) -> float:
    if case.device.type == "cuda":
        return _wall(case, kernel, mask, inputs, steps)
    start = time.process_time()
    for _ in range(steps):
        case.step(kernel, mask, inputs)
    return time.process_time() - start


def _wall(case: Case, kernel: str, mask: object, inputs: list[Tensor], steps: int) -> float:
    gpu = case.device.type == "cuda"
    if gpu:
        torch.cuda.synchronize(case.device)
    start = time.perf_counter()
    for _ in range(steps):
        case.step(kernel, mask, inputs)
    if gpu:
        torch.cuda.synchronize(case.device)
    return time.perf_counter() - start


def turn(given: tuple[Any, ...], kernel: str, seconds: float) -> tuple[float, float]:
    """In a process of its own: microseconds and bytes that a token costs. ``given``: a Case's, its device by name."""
    device = pick(given[-1])
    keep_freed_memory()
    case = Case(*given[:-1], device)
    inputs = case.inputs()
    tokens, before = case.batch * case.context, _held(device)
    mask = case.mask(kernel)
    steps, took = 1, 0.0
    for _ in range(3):  # the first two warm up
        took = _wall(case, kernel, mask, inputs, steps) / steps
    steps = max(1, round(seconds / took))
    took = _wall(case, kernel, mask, inputs, steps) / steps
    return took / tokens * 1e6, (peak_memory(device) - before) / tokens


def _held(device: torch.device) -> int:
    """Bytes held now, from where the peak is counted on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # the peak is now what is held now (man proc)
    return peak_memory(device)
