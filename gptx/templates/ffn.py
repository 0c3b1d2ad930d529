"""A feed-forward network of your own. Letters: B batch, T time, D d_model, F hidden width.

What the base class requires, and what it offers: docs/contracts.md#ffn of gptx.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from gptx.ffn.base import FFN, hidden_width
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.side_losses import SideLosses


class FfnTemplate(FFN):
    """out(silu(up(x))).

    Args:
        shape: the sizes of the model.
        ratio: F / D.
    """

    # Tensor parallelism splits `up` by its outputs, the hidden units, and `out` by its inputs.
    tp: ClassVar[dict[str, str]] = {"up": "col", "out": "row"}

    def __init__(self, shape: ModelShape, *, ratio: float) -> None:
        super().__init__()
        hidden = hidden_width(shape, ratio, 1)
        self.up = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.out = nn.Linear(hidden, shape.d_model, bias=shape.bias)  # `out`: it joins the residual stream

    def forward(self, x: Tensor, side: SideLosses) -> Tensor:
        out: Tensor = self.out(F.silu(self.up(x)))  # (B, T, F) -> (B, T, D)
        return out
