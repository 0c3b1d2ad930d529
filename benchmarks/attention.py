"""The case that `benchmarks.kernels` and `benchmarks.window` measure: attention of one layer with gptx's kernels,
forward and backward, on random queries, keys and values."""

import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from gptx.config.compose import compose
from gptx.config.instantiate import part
from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.hardware.cpu import keep_freed_memory
from gptx.hardware.description import peak_memory
from gptx.hardware.device import autocast, compute_dtype, pick
from gptx.kernel.auto import Auto
from gptx.kernel.base import Kernel
from gptx.kernel.predicted_cost import counted


@functools.cache
def _composed(*overrides: str) -> DictConfig:
    """The config of these overrides: composing one takes longer than many a measurement."""
    return compose(overrides)


@dataclass
class Case:
    """One attention layer. ``window``: tokens, 0 is full attention; ``bias``: whether to add the bias of ALiBi."""

    heads: int
    dim: int
    context: int
    window: int
    bias: bool
    dtype: str
    batch: int
    device: torch.device
    kernels: dict[str, Kernel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        window = ["window=sliding", f"window.size={self.window}"] if self.window else ["window=full"]
        cfg = _composed(f"pos={'alibi' if self.bias else 'none'}", *window)
        self.shape = ModelShape(1, self.heads, self.heads * self.dim, self.context, 1, 0.0, False)
        self.visible = part(cfg.window)
        self.pos = part(cfg.pos, self.shape, self.dim, self.heads).to(self.device)
        self.type = compute_dtype(self.dtype, self.device)

    def kernel(self, name: str) -> Kernel:
        if name not in self.kernels:
            self.kernels[name] = part(_composed(f"kernel={name}").kernel, self.shape, frozenset())
        return self.kernels[name]

    def supports(self, name: str) -> bool:
        needs_16_bits = name == "flash" and self.dtype == "fp32"
        return not needs_16_bits and self.kernel(name).rejects(self.visible, self.pos, self.device.type) is None

    def weights(self, name: str) -> int:
        """Bytes of (T, T) tensors that a kernel creates: attention weights with their gradients, or a mask."""
        dense = self.context**2 * 4
        if name == "reference":
            return 4 * self.batch * self.heads * dense
        masked = name == "sdpa" and (self.bias or 0 < self.window < self.context)
        return (self.heads if self.bias else 1) * dense if masked else 0

    def chosen(self) -> str:
        """The name of the kernel that kernel=auto chooses."""
        auto = self.kernel("auto")
        assert isinstance(auto, Auto)
        with autocast(self.device, self.type):
            return auto.choose(self.where, self.visible, self.pos)

    def counted(self, name: str) -> tuple[str, tuple[float, float, float]]:
        """The row of `gptx.kernel.predicted_cost` for a kernel, and the ms that 1 ns of each constant adds."""
        row, pairs = counted(name, self.where, self.visible, self.pos)
        scale = self.heads * self.batch / 1e6
        return row, (self.dim * self.context * scale, pairs * scale, pairs * self.dim * scale)

    @property
    def where(self) -> Where:
        return Where.rows(self.context, self.device)

    def mask(self, name: str) -> object:
        with autocast(self.device, self.type):
            return self.kernel(name).mask(self.where, self.visible, self.pos)

    def inputs(self) -> list[Tensor]:
        size = (self.batch, self.context, self.heads, self.dim)
        stream = torch.Generator(self.device).manual_seed(0)
        tensors = (torch.randn(size, generator=stream, device=self.device, dtype=self.type) for _ in range(4))
        return [x.requires_grad_(number < 3) for number, x in enumerate(tensors)]  # q, k, v, gradient of the output

    def step(self, name: str, mask: object, inputs: list[Tensor]) -> list[Tensor]:
        """Forward and backward: the output, and the gradients of queries, keys and values."""
        q, k, v, gradient = inputs
        with autocast(self.device, self.type):
            y = self.kernel(name)(q, k, v, mask, Score(self.dim**-0.5))
        return [y, *torch.autograd.grad(y, (q, k, v), gradient)]


def best(case: Case, kernel: str, rounds: int, seconds: float = 0.05) -> float:
    """Milliseconds of a step in the fastest round of at least ``seconds``: CPU time, or the time of a GPU."""
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


def turn(sizes: tuple[Any, ...], kernel: str, seconds: float) -> tuple[float, float]:
    """Measure microseconds and bytes per token. ``sizes``: the arguments of `Case`, with the name of the device."""
    *numbers, device_name = sizes
    device = pick(device_name)
    keep_freed_memory()
    case = Case(*numbers, device)  # type: ignore[call-arg]
    inputs = case.inputs()
    tokens, before = case.batch * case.context, _reset_peak(device)
    mask = case.mask(kernel)
    steps, took = 1, 0.0
    for _ in range(3):  # the first two are a warm-up
        took = _wall(case, kernel, mask, inputs, steps) / steps
    steps = max(1, round(seconds / took))
    took = _wall(case, kernel, mask, inputs, steps) / steps
    return took / tokens * 1e6, (peak_memory(device) - before) / tokens


def _reset_peak(device: torch.device) -> int:
    """Start to measure the peak of memory; returns the bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # sets the peak to the current use (man proc)
    return peak_memory(device)
