"""A norm of your own. Letters: D d_model.

What the base class requires: docs/contracts.md#norm of gptx.
"""

import torch
from torch import Tensor, nn

from gptx.geometry.model_shape import ModelShape
from gptx.norm.base import Norm


class NormTemplate(Norm):
    """Divide (..., D) by its mean absolute value, and multiply it by a learned scale.

    Args:
        shape: the sizes of the model.
        eps: added to the mean.
    """

    def __init__(self, shape: ModelShape, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(shape.d_model))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().mean(-1, keepdim=True) + self.eps) * self.weight
