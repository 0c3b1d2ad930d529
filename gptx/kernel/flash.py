"""FlashAttention (Dao 2023, "FlashAttention-2") from the package flash-attn, if that is installed.

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim.
"""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gptx.errors import ConfigError
from gptx.geometry.attention_view import Score
from gptx.geometry.visibility import Where
from gptx.kernel.base import Kernel
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


@dataclass(frozen=True, eq=False)
class FlashMask:
    """The properties of the mask that the package needs.

    Attributes:
        past: number of earlier tokens that a query sees; -1: all.
        slopes: (H,) of a linear bias; None: no bias.
    """

    past: int
    slopes: Tensor | None


ID = "kernel.flash"
REVISION = 1


class Flash(Kernel):
    """Runs on CUDA in bf16 or fp16, with full and sliding windows and the bias of ALiBi."""

    supports: ClassVar[frozenset[str]] = frozenset({"softcap"})
    supports_packing = False
    supports_fp32 = False

    def rejects(self, window: Window, pos: PositionalEncoding, device: str) -> str | None:
        if device != "cuda":
            return f"it runs on cuda only, given device={device}; use kernel=auto"
        if "flash_attn" not in sys.modules and importlib.util.find_spec("flash_attn") is None:
            return "it needs the package flash-attn, which is not installed; pip install flash-attn, or use kernel=auto"
        return super().rejects(window, pos, device)

    def unsupported(self, window: Window, pos: PositionalEncoding) -> str | None:
        if not window.covers(sys.maxsize) and not window.sliding:
            return "it supports full and sliding windows only; use kernel=auto"
        if pos.biased and not pos.linear:
            return "it supports no bias but that of alibi; use kernel=auto"
        return super().unsupported(window, pos)

    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        if where.q_doc is not None:
            raise ConfigError("kernel=flash supports no document mask; use kernel=auto or data.document_mask=false")
        past = -1 if window.reach is None else window.reach - 1
        slopes = pos.slopes if pos.linear else None
        assert slopes is None or isinstance(slopes, Tensor)
        return FlashMask(past, None if slopes is None else slopes.float())

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        assert isinstance(mask, FlashMask)
        if v.dtype not in (torch.bfloat16, torch.float16):
            dtype = str(v.dtype).removeprefix("torch.")
            raise ConfigError(f"kernel=flash computes in bf16, given {dtype}; use precision=bf16 or kernel=auto")
        width = max(q.shape[-1], v.shape[-1])  # the package requires one width: pad with zeros
        q, k, values = (F.pad(x.to(v.dtype), (0, width - x.shape[-1])) for x in (q, k, v))
        y: Tensor = importlib.import_module("flash_attn").flash_attn_func(
            q,
            k,
            values,
            dropout_p=self.dropout,
            softmax_scale=score.scale,
            causal=True,  # with fewer queries than keys, the queries are the last tokens, as in gptx
            window_size=(mask.past, 0 if mask.past >= 0 else -1),
            softcap=score.softcap,
            alibi_slopes=mask.slopes,
        )
        return y[..., : v.shape[-1]]
