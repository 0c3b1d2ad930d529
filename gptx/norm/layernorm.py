"""Layer normalisation (Ba et al. 2016)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.norm.base import Norm

ID = "norm.layernorm"
REVISION = 1


class LayerNorm(Norm):
    """Normalise (..., D) to mean 0 and variance 1, multiply by a learned scale and, if the model has biases, add a
    learned shift.

    Args:
        eps: added to the variance; 0 or more.
    """

    def __init__(self, shape: ModelShape, *, eps: float) -> None:
        super().__init__()
        if eps < 0:
            raise ConfigError(f"norm.eps={eps:g}: expected 0 or more, such as 1e-5")
        self.weight = nn.Parameter(torch.ones(shape.d_model))
        self.bias = nn.Parameter(torch.zeros(shape.d_model)) if shape.bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
