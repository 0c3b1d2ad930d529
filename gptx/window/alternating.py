"""A pattern of local and global layers (Gemma 2, 2024; Gemma 3, 2025: five local layers per global one; Llama 4, 2025:
three chunked layers per global one)."""

from dataclasses import dataclass

from torch import Tensor

from gptx.errors import ConfigError
from gptx.window.base import Window
from gptx.window.chunked import Chunked
from gptx.window.full import Full
from gptx.window.sliding import Sliding

ID = "window.alternating"
REVISION = 1


@dataclass(frozen=True)
class Alternating(Window):
    """Letter i of ``pattern``, repeated, defines layer i: L a sliding window of ``size`` tokens, C chunks of ``size``
    tokens, G all earlier tokens.

    The properties of this window itself are those of its widest layer.
    """

    size: int
    pattern: str

    def __post_init__(self) -> None:
        Sliding(self.size)  # checks the size
        if not self.pattern or set(self.pattern) - set("LCG"):
            raise ConfigError(
                f"window.pattern={self.pattern!r}: expected letters L (sliding), C (chunked), G (global): LLLLLG"
            )

    @property
    def widest(self) -> Window:
        """The window of the layer that sees the most tokens."""
        return Full() if "G" in self.pattern else Sliding(self.size)

    @property
    def reach(self) -> int | None:
        return self.widest.reach

    def at(self, layer: int, n_layer: int) -> Window:
        if len(self.pattern) > n_layer:
            raise ConfigError(
                f"window.pattern={self.pattern} is longer than model.n_layer={n_layer}, so letters would be unused; "
                f"use window.pattern={self.pattern[:n_layer]} or model.n_layer={len(self.pattern)}"
            )
        letter = self.pattern[layer % len(self.pattern)]
        return Full() if letter == "G" else Chunked(self.size) if letter == "C" else Sliding(self.size)

    def covers(self, length: int) -> bool:
        return self.widest.covers(length)

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return self.widest.allows(q_pos, k_pos)
