"""Estimate the peak memory of one process of a run before anything is started.

The run's own model computes one training step and one validation batch on tensors without data (torch's
FakeTensorMode), and each storage counts from its allocation until it is freed. So attention, window, kernel, autocast
and activation checkpointing need no formulas. The part of the model that each process holds comes from the strategy
(`Strategy.footprint`).
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
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
from gptx.memory.kernel_stand_ins import FusedKernelStandIn
from gptx.model.build import build
from gptx.model.gpt import GPT
from gptx.strategy.base import Strategy
from gptx.strategy.batch_plan import BatchPlan
from gptx.strategy.footprint import Footprint

CPU = torch.device("cpu")

# Measured on a CPU (torch 2.13) with 25 runs of 20 thousand to 43 million parameters: the memory of the process itself,
# alone or as one of several workers, and the factor that fragmentation adds to a heap that does not return freed memory
# (`gptx.hardware.cpu.keep_freed_memory`). On a GPU, not yet measured: the driver, and torch's allocator.
BASE, BASE_OF_WORKER, BASE_ON_GPU = 330 * 2**20, 345 * 2**20, 500 * 2**20
FRAGMENTATION, FRAGMENTATION_ON_GPU = 1.6, 1.1
COMPILER = 110 * 2**20  # memory of torch.compile itself; that it stores fewer activations is not considered


@dataclass(frozen=True)
class RamEstimate:
    """Bytes of one process.

    Attributes:
        base: the process before the model is built.
        held: weights and moments; on a CPU also the copies of both from which a checkpoint is written.
        step, validation: temporary memory in a training step and in a validation: activations, logits, gradients,
            gathered weights.
    """

    base: int
    held: int
    step: int
    validation: int

    @property
    def total(self) -> int:
        return self.base + self.held + max(self.step, self.validation)


def estimate(cfg: DictConfig, n_vocab: int, device: str, dtype: torch.dtype, processes: int) -> RamEstimate:
    """Estimate the memory of one process of a checked config.

    Args:
        device: "cpu" or "cuda"; this machine need not have it.
        dtype: the compute dtype of the run.
        processes: the number of processes of the run.
    """
    strategy: Strategy = part(cfg.strategy)
    slices = strategy.batch_slices(processes)
    plan = BatchPlan.of(cfg, slices, processes // slices)
    with torch.device("meta"):
        model = _build(cfg, n_vocab, device)
    footprint = strategy.footprint(model, plan, processes)
    copies = 2 if device == "cpu" else 1
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device=CPU)
        rows = footprint.rows, cfg.runtime.val_batch
        train, val = (torch.empty(n, cfg.model.context, dtype=torch.long) for n in rows)
        separator = 0 if cfg.data.get("document_mask", False) else None
        with autocast(CPU, dtype):
            step = _peak(lambda: _step(model, train, separator, footprint))
            validation = _peak(lambda: _validation(model, val, separator))
    fragmentation, fraction = _fragmentation(device, strategy), footprint.row_fraction
    return RamEstimate(
        base=_base(device, strategy) + (COMPILER if cfg.compile else 0),
        held=3 * footprint.weights * copies,
        step=int(fragmentation * step * fraction) + footprint.gradients + footprint.gathered,
        validation=int(fragmentation * validation * fraction) + footprint.gathered,
    )


def _base(device: str, strategy: Strategy) -> int:
    if device == "cuda":
        return BASE_ON_GPU
    return BASE if strategy.in_process else BASE_OF_WORKER


def _fragmentation(device: str, strategy: Strategy) -> float:
    if device == "cuda":
        return FRAGMENTATION_ON_GPU
    return 1.0 if strategy.shards_weights else FRAGMENTATION  # such a strategy returns freed memory to the system


def _build(cfg: DictConfig, n_vocab: int, device: str) -> GPT:
    """Build the model with a kernel that runs on the CPU and saves the same tensors for the backward as the kernel on
    ``device``."""
    model = build(cfg, n_vocab, torch.device(device))
    if cfg.variant.kernel in ("flex", "flash"):
        model.use_kernel(FusedKernelStandIn(model.shape, model.kernel.demands))
    model.choose_kernel_for(device)
    return model


def _step(model: GPT, tokens: Tensor, separator: int | None, footprint: Footprint) -> None:
    """Run forward and backward of one micro-batch, as `Strategy.backward` does. Gradients that are
    included in ``footprint.gradients`` are freed as soon as they are computed, so that they are not counted twice."""
    parameters = model.parameters() if footprint.gradients else ()
    hooks = [parameter.register_post_accumulate_grad_hook(_drop_gradient) for parameter in parameters]
    model(tokens, tokens, None, documents(tokens, separator)).backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad(set_to_none=True)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


@torch.no_grad()
def _validation(model: GPT, tokens: Tensor, separator: int | None) -> None:
    """Evaluate one validation batch, as `gptx.training.evaluation.ValidationSet` does."""
    model.eval()
    logits = model(tokens, None, None, documents(tokens, separator)).float()
    nats = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none")
    torch.stack([nats, (logits.argmax(-1) == tokens).flatten().float()])


class AllocationCounter(TorchDispatchMode):
    """Counts the bytes of all storages allocated within the context, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.allocated: int = 0
        self.peak: int = 0
        self.counted: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self.counted:
            self.counted.add(storage)
            self._add(storage.nbytes())
            weakref.finalize(storage, self._add, -storage.nbytes())

    def _add(self, size: int) -> None:
        self.allocated += size
        self.peak = max(self.peak, self.allocated)


def _peak(work: Callable[[], None]) -> int:
    counter = AllocationCounter()
    with counter:
        work()
    return int(counter.peak)
