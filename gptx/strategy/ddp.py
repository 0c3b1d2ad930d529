"""Distributed data parallel: replicas of the model that average their gradients (Li et al. 2020)."""

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gptx.model.gpt import GPT
from gptx.strategy.base import Strategy
from gptx.strategy.distributed import Distributed

ID = "strategy.ddp"
REVISION = 1


class DDP(Distributed):
    """Each process holds all weights, computes a part of the rows, and averages its gradients with the others."""

    replica: DistributedDataParallel | None = None

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        # Release the reducer before the process group is destroyed. Otherwise the reducer holds the last reference to
        # the group and destroys it while it holds Python's lock: a deadlock if a gloo thread then waits for that lock.
        if self.replica is not None:
            del self.replica.reducer, self.replica.logger
            self.replica = None
        super().__exit__(kind, exc, tb)

    def place(self, model: GPT) -> nn.Module:
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Buffers are constants (slopes of ALiBi). DDP would broadcast them in every forward, also in validation.
        constants = [name for name, _ in model.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, constants)
        self.replica = DistributedDataParallel(model.to(self.device), device_ids=ids, gradient_as_bucket_view=True)
        return self.replica

    def compile(self, placed: nn.Module) -> nn.Module:
        return Strategy.compile(self, placed)  # torch.compile supports DDP as a single module

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        assert self.replica is not None
        return nullcontext() if last else self.replica.no_sync()
