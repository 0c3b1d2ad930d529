"""Fixed sinusoids added to the embeddings (Vaswani et al. 2017, section 3.5).

Letters: B batch, T time, D model width.
"""

import torch
from torch import Tensor

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.pos.base import PositionalEncoding
from gptx.pos.range_check import above

ID = "pos.sinusoidal"
REVISION = 1


class Sinusoidal(PositionalEncoding):
    """PE(p, 2i) = sin(p / theta^(2i/D)), PE(p, 2i+1) = cos(p / theta^(2i/D)), times ``scale``.

    The paper multiplies the token embeddings by sqrt(D) instead. With GPT-2's small initialisation (std 0.02), scaling
    the sinusoids down gives the same ratio.

    Args:
        theta: base of the frequencies.
        scale: factor on the sinusoids.
    """

    def __init__(self, shape: ModelShape, dim: int, heads: int, *, theta: float, scale: float) -> None:
        super().__init__(shape, dim, heads)
        if shape.d_model % 2:
            raise ConfigError(
                f"pos=sinusoidal needs an even model.d_model, given {shape.d_model}; "
                f"use model.d_model={shape.d_model + shape.n_head}"
            )
        above("theta", theta, 0, 10000)
        self.theta, self.scale = theta, scale

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        width = x.shape[-1]
        high = torch.float32 if pos.device.type == "mps" else torch.float64  # at position 10^5, fp32 is wrong by 1 %
        exponent = torch.arange(0, width, 2, device=x.device, dtype=high) / width
        angle = pos[..., None].to(high) * self.theta**-exponent  # (B, T, D/2)
        waves = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)  # (B, T, D)
        return x + self.scale * waves.to(x.dtype)
