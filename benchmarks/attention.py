"""What is timed: attention of one layer through gptx's own kernels, forward and backward, on random queries, keys and
values. The mask is made once before: a model makes it once a forward for all its layers."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gptx.config import compose
from gptx.device import autocast, compute_dtype
from gptx.kernel.base import Kernel, Score
from gptx.parts import part
from gptx.shape import Shape
from gptx.where import Where


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
        window = [f"window=sliding window.size={self.window}".split(), ["window=full"]][not self.window]
        cfg = compose([f"pos={'alibi' if self.bias else 'none'}", *(w for w in window)])
        self.shape = Shape(1, self.heads, self.heads * self.dim, self.context, 1, 0.0, False)
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

    def mask(self, name: str) -> object:
        with autocast(self.device, self.cast):
            return self.kernel(name).mask(Where.rows(self.context, self.device), self.sees, self.pos)

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
    gpu = case.device.type == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    if gpu:
        torch.cuda.synchronize(case.device)
    start = clock()
    for _ in range(steps):
        case.step(kernel, mask, inputs)
    if gpu:
        torch.cuda.synchronize(case.device)
    return clock() - start
