"""FlexAttention (Dong et al. 2024, "Flex Attention: A Programming Model for Generating Optimized Attention Kernels"):
torch compiles one fused CUDA kernel for the given window, documents and bias, and skips blocks of hidden keys.

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from gptx.geometry.attention_view import Score
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where, pair_visible
from gptx.kernel.reference import Reference, capped
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window

Bias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of batch, head, query and key indices


@dataclass(frozen=True, eq=False)
class Blocks:
    """The mask of this kernel: which blocks of pairs are computed, and the bias that is added to a pair's logit."""

    mask: BlockMask
    bias: Bias | None


ID = "kernel.flex"
REVISION = 1


class Flex(Reference):
    """This kernel trains on CUDA. With a cache it calls the reference kernel, because compiling a kernel for every
    length would cost more than it saves.

    Learned biases and decay are not supported: their gradients are summed by atomic additions in no fixed order, so
    that a run could not be repeated bit for bit.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"softcap", "sink"})
    supports_partial_rows = False

    def __init__(self, shape: ModelShape, demands: frozenset[str]) -> None:
        super().__init__(shape, demands)
        self.compiled_functions: dict[str, Any] = {}

    def compiled(self, function: Any, device: torch.device) -> Any:
        """Return the function compiled by torch, once per function. It stays uncompiled inside a compiled model, and on
        a CPU, which only tests use."""
        if device.type != "cuda" or torch.compiler.is_compiling():
            return function
        return self.compiled_functions.setdefault(function.__name__, torch.compile(function))

    def rejects(self, window: Window, pos: PositionalEncoding, device: str) -> str | None:
        if device != "cuda":
            return f"it has a backward on cuda only, given device={device}; use kernel=auto"
        if self.dropout_p:
            return f"it has no dropout, given model.dropout={self.dropout_p}; use model.dropout=0 or kernel=auto"
        return super().rejects(window, pos, device)

    def unsupported(self, window: Window, pos: PositionalEncoding) -> str | None:
        if pos.biased and any(True for _ in pos.parameters()):
            return "its gradient of a learned bias is not reproducible bit for bit; use kernel=auto"
        return super().unsupported(window, pos)

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        queries, keys = where.q_pos.shape[1], where.k_pos.shape[1]
        if queries != keys:
            return super().mask(where, window, pos)
        batch = None if where.q_doc is None else where.q_doc.shape[0]

        def seen(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            docs = None
            if where.q_doc is not None and where.k_doc is not None:
                docs = where.q_doc[b, q], where.k_doc[b, k]
            return pair_visible(*at(b, q, k), docs, window.allows)

        def bias(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return pos.bias(h, *at(b, q, k))

        def at(b: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            return where.q_pos[b if len(where.q_pos) > 1 else 0, q], where.k_pos[b if len(where.k_pos) > 1 else 0, k]

        make = self.compiled(create_block_mask, where.q_pos.device)  # uncompiled, it would allocate a (Tq, Tk) tensor
        return Blocks(make(seen, batch, None, queries, keys, where.q_pos.device), bias if pos.biased else None)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        if not isinstance(mask, Blocks):
            return super().forward(q, k, v, mask, score)

        def logit(product: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            product = capped(product, score.softcap)
            return product if mask.bias is None else product + mask.bias(b, h, i, j)

        y, aux = self.compiled(flex_attention, q.device)(
            *(x.to(v.dtype).transpose(1, 2) for x in (q, k, v)),  # (B, H or G, T, D)
            logit,
            mask.mask,
            score.scale,
            enable_gqa=q.shape[2] != k.shape[2],
            return_aux=AuxRequest(lse=score.sink is not None),
        )
        if score.sink is not None:  # an additional logit s: sum e^l / (sum e^l + e^s)
            y = y * torch.sigmoid(aux.lse - score.sink[:, None])[..., None].to(y.dtype)
        out: Tensor = y.transpose(1, 2)  # (B, Tq, H, Dv)
        return out
