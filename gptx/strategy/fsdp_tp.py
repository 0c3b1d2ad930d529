"""Two dimensions: tensor parallelism within groups of processes, such as a machine's, and fully sharded data
parallelism between them. A group shares its rows."""

import logging
from typing import Any

from gptx.strategy.distributed import degree
from gptx.strategy.fsdp import FSDP
from gptx.strategy.tp import TP

ID = "strategy.fsdp_tp"
REVISION = 1


class FSDPTP(TP, FSDP):
    """Args:
    tp: processes in a group; 0: all.
    """

    key = "tp"

    def __init__(self, *, tp: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.tp = tp

    def shape(self, processes: int) -> dict[str, int]:
        group = degree("tp", self.tp, processes)
        return {"data": processes // group, "tp": group}

    def __enter__(self) -> "FSDPTP":
        # Of weights that are cut twice torch says that one gather would be faster than two, and that it cannot.
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        super().__enter__()
        self.mesh._flatten("world")  # what is spread over both dimensions is then added up at once
        return self
