"""Takes the cheapest of the kernels that serve what it is given: by measured costs on a CPU (see `cost`), elsewhere by
an order of preference."""

import torch
from torch import Tensor

from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.banded import Banded
from gptx.kernel.base import Kernel, Score
from gptx.kernel.cost import predicted
from gptx.kernel.reference import Reference
from gptx.kernel.sdpa import SDPA, causal
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window

# Plain attention keeps its (H, Tq, Tk) weights for the backward: beyond so many, memory decides against it.
MOST_PAIRS = 1024 * 1024

# On a GPU nothing is measured yet: first what makes no (T, T) tensor. flex and flash wait, as choices of their own,
# until `python -m benchmarks.kernels --device cuda` has seen them run; sdpa's causal path is a flash kernel already.
PREFERENCE = ("causal", "banded", "sdpa", "reference")


ID = "kernel.auto"
REVISION = 1


class Auto(Kernel):
    def __init__(self, shape: ModelShape, demands: frozenset[str]) -> None:
        super().__init__(shape, demands)
        self.shape = shape
        self.reference, self.sdpa, self.banded = (kind(shape, demands) for kind in (Reference, SDPA, Banded))

    def named(self) -> dict[str, Kernel]:
        return {"reference": self.reference, "sdpa": self.sdpa, "banded": self.banded}

    def choose(self, where: Where, window: Window, pos: PositionalEncoding) -> str:
        """The name of a kernel: a function of shapes and types alone, so that all ranks and a resumed run agree."""
        device, pairs = self.device or where.q_pos.device.type, where.q_pos.shape[1] * where.k_pos.shape[1]
        fits = [name for name, kernel in self.named().items() if kernel.refuses(window, pos, device) is None]
        if device != "cpu":
            return preferred(fits, causal(where, window, pos))
        if pairs > MOST_PAIRS and len(fits) > 1:
            fits.remove("reference")
        bf16 = torch.is_autocast_enabled("cpu") or torch.get_default_dtype() == torch.bfloat16
        costs = [predicted(name, where, window, pos, self.shape, bf16) for name in fits]
        return fits[costs.index(min(costs))]

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        kernel = self.named()[self.choose(where, window, pos)]
        return kernel, kernel.mask(where, window, pos)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, tuple)
        kernel, inner = mask
        y: Tensor = kernel(q, k, v, inner, score)
        return y


def preferred(fits: list[str], causal: bool) -> str:
    """The first of the preference that is there; sdpa counts as "causal" where no mask is needed."""
    there = ["causal", *fits] if causal and "sdpa" in fits else fits
    first = next(name for name in PREFERENCE if name in there)
    return "sdpa" if first == "causal" else first
