"""One process on one device."""

from gptx.errors import ConfigError
from gptx.strategy.base import Strategy

ID = "strategy.single"
REVISION = 1


class Single(Strategy):
    def __init__(self, *, nproc: int) -> None:
        super().__init__(nproc=nproc)
        if nproc != 1:
            raise ConfigError(f"strategy=single runs in one process, given strategy.nproc={nproc}: use strategy=ddp")
