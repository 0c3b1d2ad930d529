"""Fully sharded data parallel (ZeRO, Rajbhandari et al. 2020; FSDP, Zhao et al. 2023): each rank holds a shard of the
weights, gradients and moments; the weights of a block are gathered while it is computed. Uses torch's `fully_shard`."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from gptx.errors import ConfigError, option
from gptx.model.gpt import GPT
from gptx.strategy.distributed import Distributed
from gptx.strategy.footprint import Footprint, parameter_bytes

if TYPE_CHECKING:
    from gptx.strategy.batch_plan import BatchPlan

ID = "strategy.fsdp"
REVISION = 1

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class FSDP(Distributed):
    """Each process computes a part of the rows, and holds a shard of each weight.

    Args:
        param_dtype: the dtype in which weights are gathered and used: fp32, or bf16 for half the traffic.
        reduce_dtype: the dtype in which gradients are summed: fp32 or bf16.
        reshard: free the gathered weights of a block after its forward, and gather them again for its backward.
        offload: store weights, gradients and moments in the CPU's memory.
        prefetch: the number of blocks whose weights are gathered in advance; 0: torch's default order.
    """

    shards_weights = True
    placed: FSDPModule | None = None

    def __init__(
        self,
        *,
        param_dtype: str,
        reduce_dtype: str,
        reshard: bool,
        offload: bool,
        prefetch: int,
        **rest: int,
    ) -> None:
        super().__init__(**rest)
        for name, given in (("param_dtype", param_dtype), ("reduce_dtype", reduce_dtype)):
            if given not in DTYPES:
                raise ConfigError(f"strategy.{name}={given}: expected {' or '.join(DTYPES)}")
        if prefetch < 0:
            raise ConfigError(f"strategy.prefetch={prefetch}: expected 0 (torch's default order) or more blocks")
        self.precision = MixedPrecisionPolicy(DTYPES[param_dtype], DTYPES[reduce_dtype], cast_forward_inputs=False)
        self.reshard, self.offload, self.prefetch = reshard, offload, prefetch

    def shard_mesh(self) -> DeviceMesh:
        """Return the mesh over which weights are sharded; if it has two dimensions, the first one replicates them."""
        return self.mesh["data"]

    def weight_shards(self, processes: int) -> int:
        """Return the number of shards of each weight."""
        return self.mesh_shape(processes)["data"]

    def check(self, model: GPT, processes: int, plan: "BatchPlan") -> None:
        super().check(model, processes, plan)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 0:
                raise ConfigError(
                    f"strategy={option(self)} cannot shard {name}, a parameter of 0 dimensions: make it a vector of "
                    "one number, such as nn.Parameter(torch.ones(1)), or use strategy=ddp"
                )

    def footprint(self, model: GPT, plan: "BatchPlan", processes: int) -> Footprint:
        replica, shards = super().footprint(model, plan, processes), self.weight_shards(processes)
        if shards == 1:
            return replica
        shard = replica.weights // shards
        gathered = self._gathered_bytes(model)
        return replace(replica, weights=shard, gradients=replica.gradients or shard, gathered=gathered)

    def _gathered_bytes(self, model: GPT) -> int:
        """Return the peak bytes that `fully_shard` gathers: the weights outside of the blocks, which stay gathered
        for the full step, the weights of a few blocks, and the gradients of both before they are reduced."""
        blocks = [parameter_bytes(block) for block in model.blocks]
        outside = parameter_bytes(model) - sum(blocks)
        at_once = 2 + self.prefetch if self.reshard else len(blocks)
        assert self.precision.param_dtype is not None
        weights = (outside + sum(blocks[:at_once])) * self.precision.param_dtype.itemsize // torch.float32.itemsize
        return weights + outside + 2 * max(blocks)

    def place(self, model: GPT) -> nn.Module:
        return self.shard_modules(model.to(self.device), list(model.blocks))

    def shard_modules(self, root: nn.Module, blocks: list[nn.Module]) -> nn.Module:
        """Shard each block as a separate unit, and the other weights of ``root`` as one more unit."""
        pin_memory = self.device.type == "cuda"  # pinned memory needs a GPU
        offload = CPUOffloadPolicy(pin_memory=pin_memory) if self.offload else OffloadPolicy()
        options: dict[str, Any] = {"mesh": self.shard_mesh(), "mp_policy": self.precision, "offload_policy": offload}
        sharded: list[FSDPModule] = [
            fully_shard(block, reshard_after_forward=self.reshard, **options) for block in blocks
        ]
        self.placed = fully_shard(root, reshard_after_forward=False, **options)  # its backward follows at once
        for i, block in enumerate(sharded) if self.prefetch else ():
            block.set_modules_to_forward_prefetch(sharded[i + 1 : i + 1 + self.prefetch])
            block.set_modules_to_backward_prefetch(sharded[max(0, i - self.prefetch) : i][::-1])
        return root

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        assert self.placed is not None
        self.placed.set_requires_gradient_sync(last)
        return nullcontext()
