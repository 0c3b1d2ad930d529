"""One process on one device."""

from gptx.errors import ConfigError
from gptx.strategy.base import Strategy

ID = "strategy.single"
REVISION = 1


class Single(Strategy):
    """Trains in the process of the command.

    Args:
        nproc: 1, as for all strategies the number of processes.
    """

    def __init__(self, *, nproc: int) -> None:
        super().__init__(nproc=nproc)
        if nproc != 1:
            raise ConfigError(f"strategy=single runs in one process, given strategy.nproc={nproc}: use strategy=ddp")
