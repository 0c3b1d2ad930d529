"""The view of one layer: its encoding, window and kernel, bound to the positions of this forward's tokens.

Letters: B batch, T time, Tq queries, Tk keys, H query heads, G key/value heads, D head dim, R rotated dims.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from gptx.geometry.attention_view import Score
from gptx.kernel.base import Kernel
from gptx.pos.base import PositionalEncoding


@dataclass(frozen=True, eq=False)
class LayerView:
    """Implements `gptx.geometry.attention_view.View`. Layers with the same window and encoding share one view.

    Attributes:
        table: the values that the encoding's `rotate` needs, computed once per forward.
        mask: the mask that the kernel needs, computed once per forward.
    """

    pos: PositionalEncoding
    kernel: Kernel
    table: object
    mask: object

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, H, R), (B, T, G, R) -> the same shapes, rotated to the positions of this forward."""
        return self.pos.rotate(q, k, self.table)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, score: Score) -> Tensor:
        """(B, Tq, H, D), (B, Tk, G, D), (B, Tk, G, Dv) -> (B, Tq, H, Dv)."""
        score = replace(score, scale=score.scale * self.pos.logit_scale)
        y: Tensor = self.kernel(q, k, v, self.mask, score)
        return y
