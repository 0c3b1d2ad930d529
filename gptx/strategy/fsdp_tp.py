"""A mesh of two dimensions: tensor parallelism within groups of processes, such as the GPUs of a machine, and fully
sharded data parallelism between the groups. The processes of a group compute the same rows."""

import logging
from typing import Any

from gptx.strategy.distributed import group_size
from gptx.strategy.fsdp import FSDP
from gptx.strategy.tp import TP

ID = "strategy.fsdp_tp"
REVISION = 2  # 2: with dropout, each rank drops weights of its heads independently


class FSDPTP(TP, FSDP):
    """Splits heads and hidden units within groups of processes, and shards the weights between the groups.

    Args:
        tp: processes in a group; 0: all of them.
    """

    size_key = "tp"

    def __init__(self, *, tp: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.tp = tp

    def mesh_shape(self, processes: int) -> dict[str, int]:
        size = group_size("tp", self.tp, processes)
        return {"data": processes // size, "tp": size}

    def __enter__(self) -> "FSDPTP":
        # torch warns that one gather of a weight that is sharded twice would be faster than two; it cannot do that.
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        super().__enter__()
        self.mesh._flatten("world")  # so that a sum over both dimensions is one collective
        return self
