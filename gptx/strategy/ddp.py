"""Distributed data parallel: replicas that average their gradients (Li et al. 2020). gloo on CPU, nccl on GPUs."""

import os
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptx.device import pick
from gptx.errors import ConfigError
from gptx.strategy.base import Strategy


class DDP(Strategy):
    in_process = False

    def __init__(self, *, nproc: int, timeout: int) -> None:
        super().__init__(nproc=nproc)
        if nproc < 0:
            raise ConfigError(
                f"strategy.nproc={nproc}: expected 1 or more processes, or 0 for the GPUs there (2 on CPU)"
            )
        if timeout < 1:
            raise ConfigError(f"strategy.timeout={timeout}: expected at least 1 second")
        self.timeout = timeout
        self.replica: DistributedDataParallel | None = None

    def processes(self, device: str, launched: int) -> int:
        kind = pick(device).type
        if kind == "mps":
            raise ConfigError("strategy=ddp knows no collectives on mps: use device=cpu, or strategy=single")
        if launched:
            here = int(os.environ.get("LOCAL_WORLD_SIZE", launched))
            if self.nproc not in (0, here):
                raise ConfigError(f"strategy.nproc={self.nproc}, but torchrun started {here} here: leave it out")
            return launched
        gpus = torch.cuda.device_count()
        if kind == "cuda" and self.nproc > gpus:
            raise ConfigError(
                f"strategy.nproc={self.nproc}: this machine has {gpus} GPUs; use at most that, or device=cpu"
            )
        return self.nproc or (gpus if kind == "cuda" else 2)

    def open(self, device: str) -> "DDP":
        self.device = pick(device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(self.device)
        return self

    def __enter__(self) -> "DDP":
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=self.timeout))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        # The replica's reducer would hold the group last, and end it with Python's lock held: for ever, where a thread
        # of gloo's needs the lock to drop its last tensor. Python's own reference, held longer, gives the lock free.
        if self.replica is not None:
            del self.replica.reducer, self.replica.logger
            self.replica = None
        if exc is None:  # after an error the others may never come to this barrier: leave, and be ended by the launcher
            dist.destroy_process_group()

    def place(self, model: nn.Module) -> nn.Module:
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Buffers are constants (ALiBi's slopes). Left to DDP, each forward would send them round, in validation too,
        # where one process may have a batch more than another, and would wait for ever.
        constants = [name for name, _ in model.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, constants)
        self.replica = DistributedDataParallel(model.to(self.device), device_ids=ids, gradient_as_bucket_view=True)
        return self.replica

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        assert self.replica is not None
        return super().sync(last) if last else self.replica.no_sync()

    def largest(self, number: int) -> int:
        x = torch.tensor(number, device=self.device)
        dist.all_reduce(x, dist.ReduceOp.MAX)
        return int(x)

    def sum(self, x: Tensor) -> Tensor:
        x = x.to(self.device)
        dist.all_reduce(x)
        return x
