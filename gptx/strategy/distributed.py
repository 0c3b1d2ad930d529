"""The code that all strategies with several processes use: process group, device mesh, sums, and norms of gradients."""

import math
import os
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from gptx.errors import ConfigError, option, processes_as
from gptx.hardware.device import pick
from gptx.strategy.base import Strategy

BATCH_DIMS = ("replicate", "data")  # mesh dimensions that split the rows of a batch


class Distributed(Strategy):
    """Several processes, with gloo on CPUs and nccl on GPUs.

    Args:
        nproc: processes on this machine; 0: one for each GPU, 2 on CPU.
        timeout: seconds after which a collective fails if a worker does not take part.
        restarts: how often the command restarts the workers from the last checkpoint after one has failed.
    """

    in_process = False
    mesh: DeviceMesh
    owns_process_group: bool  # whether this object created the process group and destroys it
    is_reporting_rank: bool = True  # whether this rank reports a loss

    def __init__(self, *, nproc: int, timeout: int, restarts: int) -> None:
        super().__init__(nproc=nproc)
        for name, value, least, expected in (
            ("nproc", nproc, 0, "1 or more processes, or 0 for one for each GPU (2 on CPU)"),
            ("timeout", timeout, 1, "at least 1 second"),
            ("restarts", restarts, 0, "0 (never) or more"),
        ):
            if value < least:
                raise ConfigError(f"strategy.{name}={value}: expected {expected}")
        self.timeout, self.restarts = timeout, restarts

    def mesh_shape(self, processes: int) -> dict[str, int]:
        """Return the sizes of the mesh dimensions, from the outermost to the innermost.

        Raises:
            ConfigError: this number of processes cannot be arranged in such a mesh.
        """
        return {"data": processes}

    def processes(self, device: str | torch.device, launched: int, gpus: int | None = None) -> int:
        kind = pick(device).type
        if kind == "mps":
            raise ConfigError(
                f"strategy={option(self)} needs collectives, which mps does not have: use device=cpu or strategy=single"
            )
        local = int(os.environ.get("LOCAL_WORLD_SIZE", launched))
        if gpus is None:
            gpus = torch.cuda.device_count()
            wanted = local or self.nproc
            if kind == "cuda" and wanted > gpus:
                raise ConfigError(
                    f"{processes_as(wanted)}: this machine has {gpus} GPUs; use at most that, or device=cpu"
                )
        if launched:
            if self.nproc not in (0, local, launched):
                raise ConfigError(f"strategy.nproc={self.nproc}, but torchrun started {local} here: leave it out")
            if self.restarts:
                raise ConfigError(
                    f"strategy.restarts={self.restarts} has no effect under torchrun: use its option "
                    f"--max-restarts={self.restarts}"
                )
            return launched
        return self.nproc or (gpus if kind == "cuda" else 2)

    def batch_slices(self, processes: int) -> int:
        return math.prod(size for name, size in self.mesh_shape(processes).items() if name in BATCH_DIMS)

    def open(self, device: str) -> "Distributed":
        self.device = pick(device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        return self

    def __enter__(self) -> "Distributed":
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=self.timeout)
        self.owns_process_group = not dist.is_initialized()  # else several runs use these processes in turn
        if self.owns_process_group:
            dist.init_process_group(backend, timeout=timeout)
        self.cpu_group, self.checkpoint_group = (dist.new_group(backend="gloo", timeout=timeout) for _ in range(2))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        sizes = self.mesh_shape(self.size)
        self.mesh = init_device_mesh(self.device.type, tuple(sizes.values()), mesh_dim_names=tuple(sizes))
        self.data_rank, self.data_size = 0, self.batch_slices(self.size)
        for name in sizes:
            if name in BATCH_DIMS:
                self.data_rank = self.data_rank * sizes[name] + self.mesh.get_local_rank(name)
        self.loss_ranks, self.dropout_stream = self.size, self.rank
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        # After an error other ranks may wait in another collective: only exit, the launcher ends this process.
        if exc is None and self.owns_process_group:
            dist.destroy_process_group()

    def compile(self, placed: nn.Module) -> nn.Module:
        """Compile each block separately, so that the collectives are outside of the compiled code."""
        for block in placed.blocks:  # type: ignore[union-attr]
            block.compile()
        return placed

    def sum(self, x: Tensor) -> Tensor:
        x = x.to(self.device) if self.is_reporting_rank else torch.zeros_like(x, device=self.device)
        dist.all_reduce(x)
        return x

    def max(self, number: int) -> int:
        x = torch.tensor(number)
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.cpu_group)
        return int(x)

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = self.gradient_norm(gradients).to(self.device)
        factor = torch.clamp((max_norm or float("inf")) / (norm + 1e-6), max=1.0)
        for group in group_by_mesh(gradients).values():
            torch._foreach_mul_(group, factor.to(group[0].device))
        return norm

    def gradient_norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm of all gradients, over all ranks that hold a part of them."""
        norms = [full_tensor(torch.nn.utils.get_total_norm(group)) for group in group_by_mesh(gradients).values()]
        return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        state = {}
        for name, tensor in model.state_dict().items():
            full = full_tensor(tensor)  # one tensor at a time on the device; all of them only on rank 0's CPU
            if self.rank == 0:
                state[name] = full.cpu()
        return state


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor gathered from all ranks that hold a shard, and any other tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def all_reduce_gradients(gradients: list[Tensor], group: Any, device: torch.device) -> None:
    """Sum gradients over the ranks of a process group, in place and in one collective. Of a sharded gradient, only
    this rank's shard takes part. ``device`` is the device of the group's backend."""
    if not gradients:
        return
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    total = torch.cat([tensor.flatten() for tensor in local]).to(device)
    dist.all_reduce(total, group=group)
    for tensor, summed in zip(local, total.split([tensor.numel() for tensor in local]), strict=True):
        tensor.copy_(summed.view_as(tensor))


def group_by_mesh(tensors: list[Tensor]) -> dict[Any, list[Tensor]]:
    """Group tensors by their device mesh (None: not sharded), because torch cannot mix meshes in one operation."""
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device_mesh if isinstance(tensor, DTensor) else None, []).append(tensor)
    return groups


def group_size(key: str, given: int, processes: int) -> int:
    """Return the number of processes in a group, ``strategy.<key>``: as given, or all of them if that is 0.

    Raises:
        ConfigError: the size does not divide the number of processes.
    """
    if given < 0:
        raise ConfigError(f"strategy.{key}={given}: expected 1 or more processes, or 0 for all of them")
    size = given or processes
    if processes % size:
        divisors = [n for n in range(1, processes + 1) if processes % n == 0]
        nearest = min(divisors, key=lambda n: (abs(n - size), n))
        raise ConfigError(
            f"strategy.{key}={given} does not divide {processes} processes: use strategy.{key}={nearest} or "
            f"{processes_as(size * max(1, round(processes / size)))}"
        )
    return size
