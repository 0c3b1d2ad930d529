"""The contract of a feed-forward network, and the two forms that most variants have: plain and gated.

Letters: B batch, T time, D model width, F hidden width.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape
from gptx.geometry.side_losses import SideLosses


class FFN(nn.Module, ABC):
    """Base class. The last layer is named ``out`` and has a smaller initialisation: its output is added to the residual
    stream.

    Attributes:
        tp: how tensor parallelism splits each child module: "col", by its outputs; "row", by its inputs, and the
            partial results are summed. Empty: every rank computes the full network identically.
        macs_per_token: multiply-adds that one token costs in matrix products outside of Linear layers.
        tokens_compete: whether, in training, the tokens of a row influence each other's output; packed documents in
            one row would, too.
        needs_full_rows: whether, in training, a forward must see all tokens of a row.
        has_side_losses: whether a forward may add to the collector that it is given.
    """

    tp: ClassVar[dict[str, str]] = {}
    macs_per_token: int = 0
    tokens_compete: bool = False
    needs_full_rows: bool = False
    has_side_losses: ClassVar[bool] = False

    @abstractmethod
    def forward(self, x: Tensor, side: SideLosses) -> Tensor:
        """(B, T, D) -> (B, T, D). In training, side losses and metrics are added to ``side``."""


class PlainFFN(FFN):
    """Two layers with a pointwise activation between them: out(activate(up(x))).

    Args:
        ratio: F / D.
    """

    tp: ClassVar[dict[str, str]] = {"up": "col", "out": "row"}

    def __init__(self, shape: ModelShape, *, ratio: float) -> None:
        super().__init__()
        hidden = hidden_width(shape, ratio, 1)
        self.up = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.out = nn.Linear(hidden, shape.d_model, bias=shape.bias)

    @abstractmethod
    def activate(self, x: Tensor) -> Tensor:
        """The activation, elementwise."""

    def forward(self, x: Tensor, side: SideLosses) -> Tensor:
        out: Tensor = self.out(self.activate(self.up(x)))  # (B, T, F) -> (B, T, D)
        return out


class GatedFFN(FFN):
    """A gated linear unit (Shazeer 2020): out(activate(gate(x)) * up(x)).

    Args:
        ratio: F / D; with 8/3 it has as many parameters as `PlainFFN` with 4.
        multiple_of: F is rounded to a multiple of this.
    """

    tp: ClassVar[dict[str, str]] = {"gate": "col", "up": "col", "out": "row"}

    def __init__(self, shape: ModelShape, *, ratio: float, multiple_of: int) -> None:
        super().__init__()
        hidden = hidden_width(shape, ratio, multiple_of)
        self.gate = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.up = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.out = nn.Linear(hidden, shape.d_model, bias=shape.bias)

    @abstractmethod
    def activate(self, x: Tensor) -> Tensor:
        """The activation of the gate, elementwise."""

    def forward(self, x: Tensor, side: SideLosses) -> Tensor:
        out: Tensor = self.out(self.activate(self.gate(x)) * self.up(x))  # (B, T, F) -> (B, T, D)
        return out


def hidden_width(shape: ModelShape, ratio: float, multiple_of: int) -> int:
    """Return F: ratio * D, rounded to a multiple of ``multiple_of`` and at least ``multiple_of``.

    Raises:
        ConfigError: ``ratio`` or ``multiple_of`` is out of range.
    """
    if not 0 < ratio <= 1000:
        raise ConfigError(f"ffn.ratio={ratio}: expected more than 0 and at most 1000, such as 4")
    if not 1 <= multiple_of <= 2**20:
        raise ConfigError(f"ffn.multiple_of={multiple_of}: expected at least 1, such as 8")
    return max(1, round(shape.d_model * ratio / multiple_of)) * multiple_of
