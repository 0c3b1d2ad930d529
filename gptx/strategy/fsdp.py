"""Fully sharded data parallel (ZeRO, Rajbhandari et al. 2020; FSDP, Zhao et al. 2023): weights, gradients and moments
are cut over the processes; a block's weights are gathered when it is computed. torch's `fully_shard`."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from gptx.errors import ConfigError
from gptx.model.gpt import GPT
from gptx.strategy.distributed import Distributed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


ID = "strategy.fsdp"
REVISION = 1


class FSDP(Distributed):
    """Args:
    param_dtype: what weights are gathered and computed in: fp32, bf16 (half of what is sent).
    reduce_dtype: what gradients are summed in.
    reshard: free a block's weights after its forward, and gather them again for the backward.
    offload: weights, gradients and moments lie in the CPU's memory.
    prefetch: how many blocks ahead weights are gathered; 0: torch's own order.
    """

    frugal = True
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
            raise ConfigError(f"strategy.prefetch={prefetch}: expected 0 (torch's own order) or more blocks")
        self.precision = MixedPrecisionPolicy(DTYPES[param_dtype], DTYPES[reduce_dtype], cast_forward_inputs=False)
        self.reduce_dtype, self.reshard, self.offload, self.prefetch = reduce_dtype, reshard, offload, prefetch

    def shards(self) -> DeviceMesh:
        """The processes that weights are cut over; of two dimensions, the first holds copies."""
        return self.mesh["data"]

    def place(self, model: GPT) -> nn.Module:
        return self.wrap(model.to(self.device), list(model.blocks))

    def wrap(self, whole: nn.Module, parts: list[nn.Module]) -> nn.Module:
        """Each of the parts by itself, what else is in the whole together."""
        pinned = self.device.type == "cuda"  # a machine without GPUs has nothing to pin for
        policy = CPUOffloadPolicy(pin_memory=pinned) if self.offload else OffloadPolicy()
        how: dict[str, Any] = {"mesh": self.shards(), "mp_policy": self.precision, "offload_policy": policy}
        blocks: list[FSDPModule] = [fully_shard(part, reshard_after_forward=self.reshard, **how) for part in parts]
        self.placed = fully_shard(whole, reshard_after_forward=False, **how)  # its backward comes next
        for i, one in enumerate(blocks) if self.prefetch else ():
            one.set_modules_to_forward_prefetch(blocks[i + 1 : i + 1 + self.prefetch])
            one.set_modules_to_backward_prefetch(blocks[max(0, i - self.prefetch) : i][::-1])
        return whole

    def sync(self, last: bool) -> AbstractContextManager[Any]:
        assert self.placed is not None
        self.placed.set_requires_gradient_sync(last)
        return nullcontext()
