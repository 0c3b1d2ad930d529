"""A replacement for the fused GPU kernels in memory estimates: it runs on any device, and its results are not used."""

import torch.nn.functional as F
from torch import Tensor

from gptx.geometry.attention_view import Score
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


class FusedKernelStandIn(Kernel):
    """Saves for the backward what flash and flex save: no tensor of shape (Tq, Tk)."""

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        return None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        q, k, values = (F.pad(x.to(v.dtype), (0, q.shape[-1] - x.shape[-1])).transpose(1, 2) for x in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, values, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return y.transpose(1, 2)[..., : v.shape[-1]]
