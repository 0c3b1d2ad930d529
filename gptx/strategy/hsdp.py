"""Hybrid sharding (Zhao et al. 2023, section 3.2.2): weights are sharded within groups of processes, such as the GPUs
of a machine, as fsdp does it; each group holds all weights, and the groups average their gradients as ddp does it."""

from typing import Any

from torch.distributed.device_mesh import DeviceMesh

from gptx.strategy.distributed import group_size
from gptx.strategy.fsdp import FSDP

ID = "strategy.hsdp"
REVISION = 1


class HSDP(FSDP):
    """Shards the weights within groups of processes, and replicates them between the groups.

    Args:
        shard: processes in a group; 0: all of them.
    """

    def __init__(self, *, shard: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.shard_size = shard

    def mesh_shape(self, processes: int) -> dict[str, int]:
        size = group_size("shard", self.shard_size, processes)
        return {"replicate": processes // size, "data": size}

    def shard_mesh(self) -> DeviceMesh:
        return self.mesh
