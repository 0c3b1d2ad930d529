"""FlexAttention (Dong et al. 2024, "Flex Attention: A Programming Model for Generating Optimized Attention Kernels"):
torch compiles one fused CUDA kernel for the window, documents and bias at hand, and skips blocks of hidden keys.

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, create_block_mask, flex_attention

from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where, pair_visible
from gptx.kernel.base import Score
from gptx.kernel.reference import Reference, capped
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window

Bias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of batch, head, query and key indices


@dataclass(frozen=True, eq=False)
class Blocks:
    """Which blocks of pairs are computed, and what is added to a pair's logit."""

    mask: BlockMask
    bias: Bias | None


ID = "kernel.flex"
REVISION = 1


class Flex(Reference):
    """Trains on CUDA. Behind a cache it attends as the reference does: a kernel compiled for every length costs more
    than it saves. It serves nothing whose gradient would be gathered by atomic additions (learned biases, decay):
    their order is not fixed, and a run would not repeat bit for bit."""

    serves: ClassVar[frozenset[str]] = frozenset({"softcap", "sink"})
    parts = False

    def __init__(self, shape: ModelShape, demands: frozenset[str]) -> None:
        super().__init__(shape, demands)
        self.ready: dict[str, Any] = {}

    def compiled(self, function: Any, device: torch.device) -> Any:
        """Compiled once; as it is, inside a model that is compiled, and on a CPU, where only tests come."""
        if device.type != "cuda" or torch.compiler.is_compiling():
            return function
        return self.ready.setdefault(function.__name__, torch.compile(function))

    def refuses(self, window: Window, pos: PositionalEncoding, device: str) -> str | None:
        if device != "cuda":
            return f"it has no backward on device={device}, only on cuda: use kernel=auto"
        if self.p:
            return f"it has no dropout, given model.dropout={self.p}: use model.dropout=0 or kernel=auto"
        return super().refuses(window, pos, device)

    def lacks(self, window: Window, pos: PositionalEncoding) -> str | None:
        if pos.biased and any(True for _ in pos.parameters()):
            return "it does not repeat the gradient of a learned bias bit for bit: use kernel=auto"
        return super().lacks(window, pos)

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

        make = self.compiled(create_block_mask, where.q_pos.device)  # eager, it would make a (Tq, Tk) tensor
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
        if score.sink is not None:  # one more logit s takes its part: sum e^l / (sum e^l + e^s)
            y = y * torch.sigmoid(aux.lse - score.sink[:, None])[..., None].to(y.dtype)
        out: Tensor = y.transpose(1, 2)
        return out
