"""The contract of a kernel: softmax(q k^T * scale + bias over what is visible) v.

Letters: B batch, Tq queries, Tk keys, H query heads, G key/value heads, D head dim.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from gptx.geometry.model_shape import ModelShape
from gptx.geometry.visibility import Where, visible
from gptx.pos.base import PositionalEncoding
from gptx.window.base import Window


@dataclass(frozen=True, eq=False)
class Score:
    """How products become logits: softcap * tanh(q.k * scale / softcap) + bias + decay of query - decay of key.

    Attributes:
        scale: the factor on q.k.
        softcap: 0: none.
        sink: (H,) one more logit in each head's softmax, of a key without a value; None: none.
        decay: (B, Tk, G) what is subtracted from all logits of a key; queries are the newest of these tokens, and
            theirs is added: for the softmax that changes nothing, but keeps the logits small. None: none.
    """

    scale: float
    softcap: float = 0.0
    sink: Tensor | None = None
    decay: Tensor | None = None


class Kernel(nn.Module, ABC):
    """Has no parameters; drops attention weights while training.

    Args:
        demands: what the attention asks for beyond plain products (see `gptx.attention.base.Attention.demands`).
    """

    serves: ClassVar[frozenset[str]] = frozenset({"softcap", "sink", "decay"})
    packs: ClassVar[bool] = True  # whether it can hide the documents of a row from one another
    fp32: ClassVar[bool] = True  # whether it computes in fp32 too
    parts: ClassVar[bool] = True  # whether it is itself with fewer queries than keys too
    device: str = ""  # the kind that it is to choose for; "": the one that the tensors are on

    def __init__(self, shape: ModelShape, demands: frozenset[str]) -> None:
        super().__init__()
        self.p, self.n_head, self.demands = shape.dropout, shape.n_head, demands

    @property
    def dropout(self) -> float:
        return self.p if self.training else 0.0

    def refuses(self, window: Window, pos: PositionalEncoding, device: str) -> str | None:
        """Why a layer of this window and encoding cannot be computed here, or None. It is asked when the model is
        built; the text follows the names of the options."""
        return self.lacks(window, pos)

    def lacks(self, window: Window, pos: PositionalEncoding) -> str | None:
        """Why it cannot be computed anywhere, or None."""
        missing = sorted(self.demands - self.serves)
        if missing:
            return f"it has no attention {' or '.join(missing)}: use kernel=auto or kernel=reference"
        return None

    @abstractmethod
    def mask(self, where: Where, window: Window, pos: PositionalEncoding) -> object:
        """Built once a forward for each distinct (window, pos); opaque to everyone but this kernel."""

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: object, score: Score) -> Tensor:
        """q (B, Tq, H, D), k (B, Tk, G, D), v (B, Tk, G, Dv) -> (B, Tq, H, Dv)."""


def additive(where: Where, window: Window, pos: PositionalEncoding, n_head: int) -> Tensor:
    """(B or 1, H or 1, Tq, Tk): the bias where visible, -inf elsewhere.

    Without a bias it is bf16: 0 and -inf are exact in it, and added to scores of any type it leaves their type alone.
    """
    seen = visible(where, window.allows)[:, None]
    if not pos.biased:
        return torch.zeros_like(seen, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))
    head = torch.arange(n_head, device=seen.device)[None, :, None, None]
    bias = pos.bias(head, where.q_pos[:, None, :, None], where.k_pos[:, None, None, :])
    return bias.masked_fill(~seen, float("-inf"))
