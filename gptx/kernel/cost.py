"""What each kernel costs on a CPU, predicted from its shapes: `auto` takes the cheapest.

A prediction and not a timing: all ranks, and a run that is resumed, must take the same one. The constants are from
`python -m benchmarks.kernels --device cpu --fit` (November 2026): forward and backward of 64 to 8192 tokens, 4 heads
of 32 and 6 of 64, full and sliding windows of 32 and 256, with and without ALiBi; AMD EPYC (Zen 5, AVX-512 bf16), one
thread, torch 2.13. Only their order matters, and that is the same with a batch of any size.

Letters: Tq queries, Tk keys, H query heads, D head dim.
"""

from dataclasses import dataclass

from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.chunks import Chunks
from gptx.kernel.sdpa import causal
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


@dataclass(frozen=True)
class Constants:
    """Nanoseconds of one row: (per_token * D + pairs * (per_pair + per_product * D)) * H."""

    per_token: float  # and dim of a head: copies, and what is lost in many small products
    per_pair: float  # of a query and a key, hidden ones too: softmax, mask
    per_product: float  # a pair and a dim: matmul

    def of(self, tokens: int, pairs: int, shape: ModelShape) -> float:
        dim = shape.head_dim
        return (self.per_token * dim * tokens + pairs * (self.per_pair + self.per_product * dim)) * shape.n_head


# "causal" is sdpa without a mask. In bf16 its backward is slow, with a mask and without.
FP32 = {
    "reference": Constants(3.57, 2.95, 0.131),
    "causal": Constants(3.97, 1.27, 0.147),
    "sdpa": Constants(2.46, 1.76, 0.150),
    "banded": Constants(10.14, 3.72, 0.122),
}
BF16 = {
    "reference": Constants(1.76, 1.86, 0.035),
    "causal": Constants(33.44, 2.46, 0.056),
    "sdpa": Constants(30.59, 2.35, 0.082),
    "banded": Constants(4.82, 2.19, 0.039),
}
SKIPPED = 512  # keys: torch's causal path leaves out blocks so large that lie in the future


def counted(kernel: str, where: Where, window: Window, pos: PositionalEncoding) -> tuple[str, int]:
    """The row of the tables that holds for a kernel here, and the pairs that it computes."""
    queries, keys = where.q_pos.shape[1], where.k_pos.shape[1]
    if kernel == "banded":
        assert window.reach is not None
        chunks = Chunks.of(queries, keys, window.reach)
        return kernel, chunks.n * chunks.size * (chunks.past + chunks.size)
    if kernel == "sdpa" and causal(where, window, pos):
        return "causal", queries * min(keys, (keys + SKIPPED) // 2)
    return kernel, queries * keys


def predicted(
    kernel: str, where: Where, window: Window, pos: PositionalEncoding, shape: ModelShape, bf16: bool
) -> float:
    """Nanoseconds that a kernel takes for one row of these queries and keys, forward and backward, on one thread."""
    name, pairs = counted(kernel, where, window, pos)
    return (BF16 if bf16 else FP32)[name].of(where.q_pos.shape[1], pairs, shape)
