"""The contract of a feed-forward network, and the two shapes that most of them have: plain and gated.

Letters: B batch, T time, D model width, F hidden width.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from gptx.errors import ConfigError
from gptx.geometry.model_shape import ModelShape


class FFN(nn.Module, ABC):
    """Each token by itself. Its last layer is named ``out``: it joins the residual stream, and is initialised smaller.

    Attributes:
        tp: how tensor parallelism may cut a child: "col", by its outputs; "row", by its inputs, and the parts'
            results are added. Without any, all of it is computed alike everywhere.
        matmul_weights: multiply-adds that one token costs in matrix products other than those of Linear layers.
        shares_rows: whether, in training, the tokens of a row compete with each other: then packed documents would.
        whole_rows: whether, in training, it has to see all tokens of a row at once.
        balance: a side loss of the last forward in training, weighted; None: it has none. `GPT` adds the layers' mean
            to its loss, for the gradient alone; whoever makes a loss of the logits has to do so too.
    """

    tp: ClassVar[dict[str, str]] = {}
    matmul_weights: int = 0
    shares_rows: bool = False
    whole_rows: bool = False
    balance: Tensor | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""

    def metrics(self) -> dict[str, Tensor]:
        """What of the last forward in training belongs into the journal, by name: scalars, each a mean over tokens."""
        return {}


class Plain(FFN):
    """Two layers with a pointwise activation between: out(activate(up x)), F = ratio * D."""

    tp: ClassVar[dict[str, str]] = {"up": "col", "out": "row"}

    def __init__(self, shape: ModelShape, *, ratio: float) -> None:
        super().__init__()
        hidden = hidden_width(shape, ratio, 1)
        self.up = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.out = nn.Linear(hidden, shape.d_model, bias=shape.bias)

    @abstractmethod
    def activate(self, x: Tensor) -> Tensor:
        """Pointwise."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.activate(self.up(x)))
        return out


class Gated(FFN):
    """A gated linear unit (Shazeer 2020): out(activate(gate x) * up x). Ratio 8/3 has the parameters of Plain's 4."""

    tp: ClassVar[dict[str, str]] = {"gate": "col", "up": "col", "out": "row"}

    def __init__(self, shape: ModelShape, *, ratio: float, multiple_of: int) -> None:
        super().__init__()
        hidden = hidden_width(shape, ratio, multiple_of)
        self.gate = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.up = nn.Linear(shape.d_model, hidden, bias=shape.bias)
        self.out = nn.Linear(hidden, shape.d_model, bias=shape.bias)

    @abstractmethod
    def activate(self, x: Tensor) -> Tensor:
        """Pointwise."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.activate(self.gate(x)) * self.up(x))
        return out


def hidden_width(shape: ModelShape, ratio: float, multiple_of: int) -> int:
    """F: ratio * D, rounded to a multiple of ``multiple_of``, at least one of them."""
    if not 0 < ratio <= 1000:
        raise ConfigError(f"ffn.ratio={ratio}: expected more than 0 and at most 1000, such as 4")
    if not 1 <= multiple_of <= 2**20:
        raise ConfigError(f"ffn.multiple_of={multiple_of}: expected at least 1, such as 8")
    return max(1, round(shape.d_model * ratio / multiple_of)) * multiple_of
