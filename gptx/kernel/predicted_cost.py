"""Predicted cost of each kernel on a CPU, from shapes only: `auto` chooses the cheapest.

The choice is predicted and not timed, because all ranks and a resumed run must choose the same kernel. The constants
are from `python -m benchmarks.kernels --device cpu --fit` (November 2026): forward and backward of 64 to 8192 tokens, 4
heads of 32 dims and 6 of 64, full and sliding windows of 32 and 256, with and without ALiBi; AMD EPYC (Zen 5, AVX-512
bf16), one thread, torch 2.13. Only the order of the costs matters; it does not depend on the batch size.

Letters: Tq queries, Tk keys, H query heads, D head dim.
"""

from dataclasses import dataclass

from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where
from gptx.kernel.banded_chunks import Chunks
from gptx.kernel.sdpa import causal
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


@dataclass(frozen=True)
class CostConstants:
    """Constants of the cost of one row: (per_token * D * Tq + pairs * (per_pair + per_product * D)) * H nanoseconds.

    Attributes:
        per_token: ns per token and dim of a head: copies, and the overhead of many small products.
        per_pair: ns per (query, key) pair, visible or not: softmax and mask.
        per_product: ns per pair and dim: matrix products.
    """

    per_token: float
    per_pair: float
    per_product: float

    def nanoseconds(self, tokens: int, pairs: int, shape: ModelShape) -> float:
        dim = shape.head_dim
        return (self.per_token * dim * tokens + pairs * (self.per_pair + self.per_product * dim)) * shape.n_head


# "causal" is sdpa without a mask. In bf16 the backward of sdpa is slow, with a mask and without.
FP32 = {
    "reference": CostConstants(3.57, 2.95, 0.131),
    "causal": CostConstants(3.97, 1.27, 0.147),
    "sdpa": CostConstants(2.46, 1.76, 0.150),
    "banded": CostConstants(10.14, 3.72, 0.122),
}
BF16 = {
    "reference": CostConstants(1.76, 1.86, 0.035),
    "causal": CostConstants(33.44, 2.46, 0.056),
    "sdpa": CostConstants(30.59, 2.35, 0.082),
    "banded": CostConstants(4.82, 2.19, 0.039),
}
SKIPPED = 512  # keys: torch's causal path skips blocks of this size that lie in the future


def counted(kernel: str, where: Where, window: Window, pos: PositionalEncoding) -> tuple[str, int]:
    """Return which row of the tables applies to a kernel, and the number of pairs that it computes."""
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
    """Return the predicted nanoseconds of a kernel for one row of these queries and keys: forward and backward, one
    thread."""
    name, pairs = counted(kernel, where, window, pos)
    return (BF16 if bf16 else FP32)[name].nanoseconds(where.q_pos.shape[1], pairs, shape)
