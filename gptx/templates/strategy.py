"""A strategy of your own: how a run is split over processes. It must not change the losses.

What the base class offers: docs/contracts.md#strategy of gptx. For several processes, start from the class Distributed
in gptx/strategy/distributed.py.
"""

import torch
from torch import nn

from gptx.model.gpt import GPT
from gptx.strategy.base import Strategy


class StrategyTemplate(Strategy):
    """One process; the weights of matrices are contiguous in memory.

    Args:
        nproc: 1, the number of processes.
    """

    def place(self, model: GPT) -> nn.Module:
        return super().place(model).to(memory_format=torch.contiguous_format)
