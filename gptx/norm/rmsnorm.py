"""Root-mean-square normalisation (Zhang and Sennrich 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.norm.base import Norm

ID = "norm.rmsnorm"
REVISION = 1


class RMSNorm(Norm):
    """Normalise (..., D) to mean square 1 and multiply by a learned scale. No mean is subtracted, no bias added.

    Args:
        eps: added to the mean square; 0 or more.
    """

    def __init__(self, shape: ModelShape, *, eps: float) -> None:
        super().__init__()
        if eps < 0:
            raise ConfigError(f"norm.eps={eps:g}: expected 0 or more, such as 1e-5")
        self.weight = nn.Parameter(torch.ones(shape.d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
