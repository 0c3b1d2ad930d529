"""Chooses the cheapest kernel that can compute a layer: on a CPU by measured costs (see `predicted_cost`), on other
devices by an order of preference."""

import torch
from torch import Tensor

from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.banded import Banded
from gptx.kernel.base import Kernel
from gptx.kernel.predicted_cost import predicted
from gptx.kernel.reference import Reference
from gptx.kernel.sdpa import SDPA, causal
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window

# The reference kernel saves its (H, Tq, Tk) weights for the backward: too much memory with more pairs than this.
MOST_PAIRS = 1024 * 1024

# No costs are measured on GPUs yet: kernels that allocate no (T, T) tensor come first. flex and flash are not chosen
# until `python -m benchmarks.kernels --device cuda` has measured them; sdpa's causal path is a flash kernel already.
PREFERENCE = ("causal", "banded", "sdpa", "reference")


ID = "kernel.auto"
REVISION = 1


class Auto(Kernel):
    """Delegates each (window, encoding) to one of `reference`, `sdpa` and `banded`."""

    def __init__(self, shape: ModelShape, demands: frozenset[str]) -> None:
        super().__init__(shape, demands)
        self.shape = shape
        self.reference, self.sdpa, self.banded = (kind(shape, demands) for kind in (Reference, SDPA, Banded))

    def candidates(self) -> dict[str, Kernel]:
        return {"reference": self.reference, "sdpa": self.sdpa, "banded": self.banded}

    def choose(self, where: Where, window: Window, pos: PositionalEncoding) -> str:
        """Return the name of a kernel. It depends on shapes and dtypes only, so that all ranks and a resumed run
        choose the same."""
        device, pairs = self.target_device or where.q_pos.device.type, where.q_pos.shape[1] * where.k_pos.shape[1]
        fits = [name for name, kernel in self.candidates().items() if kernel.rejects(window, pos, device) is None]
        if device != "cpu":
            return preferred(fits, causal(where, window, pos))
        if pairs > MOST_PAIRS and len(fits) > 1:
            fits.remove("reference")
        bf16 = torch.is_autocast_enabled("cpu") or torch.get_default_dtype() == torch.bfloat16
        costs = [predicted(name, where, window, pos, self.shape, bf16) for name in fits]
        return fits[costs.index(min(costs))]

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        """The chosen kernel and its mask."""
        kernel = self.candidates()[self.choose(where, window, pos)]
        return kernel, kernel.mask(where, window, pos)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, tuple)
        kernel, inner_mask = mask
        y: Tensor = kernel(q, k, v, inner_mask, score)  # (B, Tq, H, Dv)
        return y


def preferred(fits: list[str], causal: bool) -> str:
    """Return the first entry of `PREFERENCE` that fits; sdpa without a mask is listed there as "causal"."""
    available = ["causal", *fits] if causal and "sdpa" in fits else fits
    first = next(name for name in PREFERENCE if name in available)
    return "sdpa" if first == "causal" else first
