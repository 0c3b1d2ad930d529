"""An optimiser of your own: a function, or a class derived from torch.optim.Optimizer.

How it is called: docs/contracts.md#optim of gptx.
"""

from collections.abc import Iterable
from typing import Any

from torch.optim import SGD, Optimizer


def optim_template(params: Iterable[Any], *, lr: float, momentum: float, weight_decay: float) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        params: parameter groups; matrices have ``weight_decay``, the other parameters 0.
        lr: peak of the schedule.
        momentum: decay rate of the mean of the gradients.
        weight_decay: for the parameter groups that do not set it.
    """
    return SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
