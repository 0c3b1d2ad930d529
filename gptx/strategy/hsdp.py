"""Hybrid sharding (Zhao et al. 2023, section 3.2.2): fsdp within groups of processes, such as a machine's; each group
holds all, and the groups average their gradients as ddp does."""

from typing import Any

from torch.distributed.device_mesh import DeviceMesh

from gptx.strategy.distributed import degree
from gptx.strategy.fsdp import FSDP

ID = "strategy.hsdp"
REVISION = 1


class HSDP(FSDP):
    """Args:
    shard: processes in a group; 0: all.
    """

    def __init__(self, *, shard: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.shard = shard

    def shape(self, processes: int) -> dict[str, int]:
        group = degree("shard", self.shard, processes)
        return {"replicate": processes // group, "data": group}

    def shards(self) -> DeviceMesh:
        return self.mesh
