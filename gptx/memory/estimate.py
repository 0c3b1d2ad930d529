"""What one process of a run will hold at its peak, found before anything is started; and what this machine has.

The run's own model computes its own step on tensors without data (torch's FakeTensorMode), and every storage counts
from when it is made until it is freed: so attention, window, kernel, autocast and activation checkpointing need no
formulas. What the processes of a strategy share is said in `gptx.memory.shards`: no process group stands yet.
"""

import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gptx.config.instantiate import part
from gptx.geometry.visibility import documents
from gptx.hardware.device import autocast
from gptx.memory.shards import Shares
from gptx.memory.stand_ins import Fused
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.strategy.base import Strategy

CPU = torch.device("cpu")
V2 = "/sys/fs/cgroup", "memory.max", "memory.current"
V1 = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"

# Measured on a CPU (torch 2.13), with 25 runs of 20 thousand to 43 million parameters: the process itself, alone and
# as one of several, and what a heap that gives nothing back (`gptx.hardware.device.keep_freed_memory`) loses to holes.
# On a GPU, where nothing is measured yet: what the driver takes, and torch's allocator.
BASE, BASE_OF_MANY, BASE_ON_GPU = 330 * 2**20, 345 * 2**20, 500 * 2**20
LOST, LOST_ON_GPU = 1.6, 1.1
COMPILER = 110 * 2**20  # in the process itself; what it keeps less of activations is not counted


@dataclass(frozen=True)
class RamEstimate:
    """Bytes of one process.

    Attributes:
        base: before there is a model.
        held: weights and moments; on a CPU also the copies of both that a checkpoint is written from.
        step, validation: what comes and goes: activations, logits, gradients, gathered weights.
    """

    base: int
    held: int
    step: int
    validation: int

    @property
    def total(self) -> int:
        return self.base + self.held + max(self.step, self.validation)


def estimate(cfg: DictConfig, n_vocab: int, device: str, dtype: torch.dtype, processes: int) -> RamEstimate:
    """What a process of a checked config will hold, on a kind of device that need not be there."""
    strategy: Strategy = part(cfg.strategy)
    with torch.device("meta"):
        model = _build(cfg, n_vocab, device)
    shares = Shares.of(cfg, strategy, model, processes)
    copies = 2 if device == "cpu" else 1
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device=CPU)
        sizes = shares.rows, cfg.runtime.val_batch
        tokens, rows = (torch.empty(n, cfg.model.context, dtype=torch.long) for n in sizes)
        separator = 0 if cfg.data.get("document_mask", False) else None
        with autocast(CPU, dtype):
            step = _peak(lambda: _step(model, tokens, separator, shares))
            validation = _peak(lambda: _validation(model, rows, separator))
    base = BASE_ON_GPU if device == "cuda" else BASE if strategy.in_process else BASE_OF_MANY
    lost = LOST_ON_GPU if device == "cuda" else 1.0 if strategy.frugal else LOST
    return RamEstimate(
        base + (COMPILER if cfg.compile else 0),
        3 * shares.weights * copies,
        int(lost * step * shares.of_row) + shares.gradients + shares.gathered,
        int(lost * validation * shares.of_row) + shares.gathered,
    )


def _build(cfg: DictConfig, n_vocab: int, device: str) -> GPT:
    """With a kernel that computes on the CPU, and keeps what a GPU's would."""
    model = build(cfg, n_vocab, torch.device(device))
    if cfg.variant.kernel in ("flex", "flash"):
        model.use_kernel(Fused(model.shape, model.kernel.demands))
    model.choose_kernel_for(device)
    return model


def _step(model: GPT, tokens: Tensor, separator: int | None, shares: Shares) -> None:
    """Forward and backward of one micro-batch, as `gptx.strategy.base.Strategy.backward` has them."""
    hooks = [p.register_post_accumulate_grad_hook(_forget) for p in model.parameters()] if shares.gradients else []
    model(tokens, tokens, None, documents(tokens, separator)).backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad(set_to_none=True)


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


@torch.no_grad()
def _validation(model: GPT, tokens: Tensor, separator: int | None) -> None:
    """One batch, as `gptx.training.evaluation.Validation` has it."""
    model.eval()
    logits = model(tokens, None, None, documents(tokens, separator)).float()
    F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum")
    (logits.argmax(-1) == tokens).sum()


class Tally(TorchDispatchMode):
    """Counts the bytes of all storages that are made in here, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self.seen:
            self.seen.add(storage)
            self._add(storage.nbytes())
            weakref.finalize(storage, self._add, -storage.nbytes())

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def _peak(work: Callable[[], None]) -> int:
    tally = Tally()
    with tally:
        work()
    return int(tally.peak)


def machine_memory(device: str) -> int:
    """Bytes to be had here: all of the smallest GPU, or what is free of the machine and of this process's cgroup."""
    if device == "cuda":
        sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        return int(min(sizes))
    info = Path("/proc/meminfo")
    if not info.exists():
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    kilobytes = dict(line.split(":") for line in info.read_text().splitlines())
    return min([int(kilobytes["MemAvailable"].split()[0]) * 1024, *_rooms()])


def _rooms() -> Iterator[int]:
    """What each of the cgroups (v2 and v1) that this process is in leaves of its limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, place = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        root, bound, used = V2 if kinds == "" else V1
        for folder in (Path(root + place), *Path(root + place).parents):
            limit = _number(folder / bound)
            if limit is not None:
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(0, limit - (_number(folder / used) or 0) + int(stat["inactive_file"]))


def _number(file: Path) -> int | None:
    """None: no such file, or no limit in it ("max")."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
