"""A strategy of your own: how a run is split over processes. It must not change the losses.

What the base class offers: docs/contracts.md#strategy of gptx. For several processes, start from the class Distributed
in gptx/strategy/distributed.py.
"""

from torch import nn

from gptx.model.gpt import GPT
from gptx.strategy.base import Strategy


class StrategyTemplate(Strategy):
    """One process.

    Args:
        nproc: 1, the number of processes.
    """

    def place(self, model: GPT) -> nn.Module:
        return model.to(self.device)  # a strategy of several processes wraps or shards the model here
