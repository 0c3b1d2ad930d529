"""What all strategies of several processes share: the process group, the mesh, sums, and gradients' norms."""

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

ROWS = ("replicate", "data")  # dimensions of a mesh that cut the rows of a batch


class Distributed(Strategy):
    """Several processes: gloo on CPU, nccl on GPUs.

    Args:
        nproc: processes on this machine; 0: the GPUs there, else 2.
        timeout: seconds a collective may wait for a lost worker.
        restarts: how often the command starts the workers again, from the last checkpoint, when one is lost.
    """

    in_process = False
    mesh: DeviceMesh
    begun: bool  # whether the process group is this one's to end
    speaks: bool = True  # whether this process has a loss of its own

    def __init__(self, *, nproc: int, timeout: int, restarts: int) -> None:
        super().__init__(nproc=nproc)
        for name, value, least, what in (
            ("nproc", nproc, 0, "1 or more processes, or 0 for the GPUs there (2 on CPU)"),
            ("timeout", timeout, 1, "at least 1 second"),
            ("restarts", restarts, 0, "0 (never) or more"),
        ):
            if value < least:
                raise ConfigError(f"strategy.{name}={value}: expected {what}")
        self.timeout, self.restarts = timeout, restarts

    def shape(self, processes: int) -> dict[str, int]:
        """The mesh that so many processes form, from the outermost dimension to the innermost.

        Raises:
            ConfigError: they cannot.
        """
        return {"data": processes}

    def processes(self, device: str | torch.device, launched: int, gpus: int | None = None) -> int:
        kind = pick(device).type
        if kind == "mps":
            raise ConfigError(
                f"strategy={option(self)} knows no collectives on mps: use device=cpu, or strategy=single"
            )
        here = int(os.environ.get("LOCAL_WORLD_SIZE", launched))
        if gpus is None:
            gpus = torch.cuda.device_count()
            wanted = here or self.nproc
            if kind == "cuda" and wanted > gpus:
                raise ConfigError(
                    f"{processes_as(wanted)}: this machine has {gpus} GPUs; use at most that, or device=cpu"
                )
        if launched:
            if self.nproc not in (0, here, launched):
                raise ConfigError(f"strategy.nproc={self.nproc}, but torchrun started {here} here: leave it out")
            if self.restarts:
                raise ConfigError(
                    f"strategy.restarts={self.restarts}: under torchrun its --max-restarts={self.restarts} does that"
                )
            return launched
        return self.nproc or (gpus if kind == "cuda" else 2)

    def rows(self, processes: int) -> int:
        return math.prod(size for name, size in self.shape(processes).items() if name in ROWS)

    def open(self, device: str) -> "Distributed":
        self.device = pick(device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        return self

    def __enter__(self) -> "Distributed":
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=self.timeout)
        self.begun = not dist.is_initialized()  # else several runs take turns in these processes
        if self.begun:
            dist.init_process_group(backend, timeout=timeout)
        self.control, self.saving = (dist.new_group(backend="gloo", timeout=timeout) for _ in range(2))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        shape = self.shape(self.size)
        self.mesh = init_device_mesh(self.device.type, tuple(shape.values()), mesh_dim_names=tuple(shape))
        self.data_rank, self.data_size, self.voices, self.stream = 0, self.rows(self.size), self.size, self.rank
        for name in shape:
            if name in ROWS:
                self.data_rank = self.data_rank * shape[name] + self.mesh.get_local_rank(name)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        # After an error the others may wait in another collective: leave, and be ended by the launcher.
        if exc is None and self.begun:
            dist.destroy_process_group()

    def compile(self, placed: nn.Module) -> nn.Module:
        """Each block by itself: what the processes say to each other stays outside."""
        for block in placed.blocks:  # type: ignore[union-attr]
            block.compile()
        return placed

    def sum(self, x: Tensor) -> Tensor:
        x = x.to(self.device) if self.speaks else torch.zeros_like(x, device=self.device)
        dist.all_reduce(x)
        return x

    def largest(self, number: int) -> int:
        x = torch.tensor(number)
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.control)
        return int(x)

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = self.norm(gradients).to(self.device)
        factor = torch.clamp((max_norm or float("inf")) / (norm + 1e-6), max=1.0)
        for group in by_mesh(gradients).values():
            torch._foreach_mul_(group, factor.to(group[0].device))
        return norm

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Of all gradients, whoever holds them."""
        parts = [whole(torch.nn.utils.get_total_norm(group)) for group in by_mesh(gradients).values()]
        return parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts))

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        state = {}
        for name, tensor in model.state_dict().items():
            one = whole(tensor)  # on the device one at a time, and in one process all, on the CPU
            if self.rank == 0:
                state[name] = one.cpu()
        return state


def whole(tensor: Tensor) -> Tensor:
    """What is spread over processes, put together in each of them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def add_up(gradients: list[Tensor], group: Any, device: torch.device) -> None:
    """Make the sums of what the processes of a group have, in place; of weights that are sharded too, each shard by
    itself. ``device`` is where the group talks."""
    if not gradients:
        return
    own = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    total = torch.cat([one.flatten() for one in own]).to(device)
    dist.all_reduce(total, group=group)
    for one, added in zip(own, total.split([one.numel() for one in own]), strict=True):
        one.copy_(added.view_as(one))


def by_mesh(tensors: list[Tensor]) -> dict[Any, list[Tensor]]:
    """Tensors that lie on the same processes: torch computes with those at once, and with no others."""
    groups: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device_mesh if isinstance(tensor, DTensor) else None, []).append(tensor)
    return groups


def degree(name: str, given: int, processes: int) -> int:
    """How many processes share one thing: as ``given``, or all where that is 0.

    Raises:
        ConfigError: the processes cannot be grouped so.
    """
    if given < 0:
        raise ConfigError(f"strategy.{name}={given}: expected 1 or more processes, or 0 for all of them")
    count = given or processes
    if processes % count:
        fits = [n for n in range(1, processes + 1) if processes % n == 0]
        near = min(fits, key=lambda n: (abs(n - count), n))
        raise ConfigError(
            f"strategy.{name}={given} does not divide {processes} processes: strategy.{name}={near} would do, or "
            f"{processes_as(count * max(1, round(processes / count)))}"
        )
    return count
