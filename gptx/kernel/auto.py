"""Takes the faster kernel for what it is given.

On a CPU in bf16 that is plain matmul attention, because sdpa's backward is slow there. Forward and backward, full
causal, one thread's CPU milliseconds of plain / sdpa for 2048 tokens (torch 2.13, AVX-512 bf16):

    context            64          128         256         512         1024        2048
    4 heads of 32      3.0 / 18    5.6 / 21    7.3 / 19    13 / 30     24 / 35     48 / 58
    6 heads of 64      5.9 / 32    8.6 / 38    15 / 43     25 / 68     48 / 91     89 / 140

Plain attention keeps its (H, Tq, Tk) weights for the backward, so beyond 1024 tokens memory decides for sdpa. In fp32
sdpa is the faster one at every length (5.3 / 5.1 at 64, 64 / 42 at 1024), and on a GPU anyway.
"""

import torch
from torch import Tensor

from gptx.kernel.base import Kernel, Score
from gptx.kernel.reference import Reference
from gptx.kernel.sdpa import SDPA
from gptx.pos.base import PositionalEncoding
from gptx.shape import Shape
from gptx.where import Where
from gptx.window.base import Window

CPU_BF16_PLAIN = 1024  # keys up to which plain attention is taken


class Auto(Kernel):
    def __init__(self, shape: Shape, demands: frozenset[str]) -> None:
        super().__init__(shape, demands)
        self.plain, self.fused = Reference(shape, demands), SDPA(shape, demands)

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        cpu = where.q_pos.device.type == "cpu"
        low = torch.is_autocast_enabled("cpu") or torch.get_default_dtype() == torch.bfloat16
        refused = self.fused.refuses(window, pos, where.q_pos.device.type)
        plain = refused or (cpu and low and where.k_pos.shape[1] <= CPU_BF16_PLAIN)
        kernel = self.plain if plain else self.fused
        return kernel, kernel.mask(where, window, pos)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, tuple)
        kernel, inner = mask
        y: Tensor = kernel(q, k, v, inner, score)
        return y
