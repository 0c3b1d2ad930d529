"""What one layer may see: the layer's encoding, window and kernel, bound to where this forward's tokens stand."""

from dataclasses import dataclass

from torch import Tensor

from gptx.kernel.base import Kernel, Score
from gptx.pos.base import PositionalEncoding


@dataclass(frozen=True, eq=False)
class View:
    """The two verbs of attention. Tables and masks are made once a forward and shared by the layers that agree."""

    pos: PositionalEncoding
    kernel: Kernel
    table: object
    mask: object

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, H, R), (B, T, G, R) -> the same shapes, turned to this forward's positions."""
        return self.pos.rotate(q, k, self.table)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        softcap: float = 0.0,
        sink: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> Tensor:
        """(B, Tq, H, D), (B, Tk, G, D), (B, Tk, G, Dv) -> (B, Tq, H, Dv). For the rest see `gptx.kernel.base.Score`."""
        y: Tensor = self.kernel(q, k, v, self.mask, Score(scale * self.pos.logit_scale, softcap, sink, decay))
        return y
