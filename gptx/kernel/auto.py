"""Takes the faster kernel for what it is given.

Measured on CPU (bf16, forward and backward, one whole training step): plain matmul attention beats sdpa, whose CPU
backward is slow in low precision, while the (Tq, Tk) scores stay in the processor's caches. Everywhere else sdpa wins.
"""

import torch
from torch import Tensor

from gptx.kernel.base import Kernel
from gptx.kernel.reference import Reference
from gptx.kernel.sdpa import SDPA
from gptx.pos.base import PositionalEncoding
from gptx.shape import Shape
from gptx.where import Where
from gptx.window.base import Window

CPU_BF16_PLAIN = 512  # keys up to which plain attention was the faster one


class Auto(Kernel):
    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.plain, self.fused = Reference(shape), SDPA(shape)

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        cpu = where.q_pos.device.type == "cpu"
        low = torch.is_autocast_enabled("cpu") or torch.get_default_dtype() == torch.bfloat16
        kernel = self.plain if cpu and low and where.k_pos.shape[1] <= CPU_BF16_PLAIN else self.fused
        return kernel, kernel.mask(where, window, pos)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, scale: float) -> Tensor:
        assert isinstance(mask, tuple)
        kernel, inner = mask
        y: Tensor = kernel(q, k, v, inner, scale)
        return y
