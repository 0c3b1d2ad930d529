"""Local and global layers in turn (Gemma 2, 2024; Gemma 3, 2025: five local layers to a global one)."""

from dataclasses import dataclass

from torch import Tensor

from gptx.errors import ConfigError
from gptx.window.base import Window
from gptx.window.full import Full
from gptx.window.sliding import Sliding


@dataclass(frozen=True)
class Alternating(Window):
    """Layer i is a sliding window of ``size`` tokens where letter i of ``pattern``, repeated, is L; full where it is G.

    The pattern as a whole is what its layer with the widest view is.
    """

    size: int
    pattern: str

    def __post_init__(self) -> None:
        Sliding(self.size)  # refuses what is no size
        if not self.pattern or set(self.pattern) - set("LG"):
            raise ConfigError(
                f"window.pattern={self.pattern!r}: expected letters L (local layer) and G (global one), such as LLLLLG"
            )

    @property
    def widest(self) -> Window:
        return Full() if "G" in self.pattern else Sliding(self.size)

    @property
    def reach(self) -> int | None:
        return self.widest.reach

    def at(self, layer: int, n_layer: int) -> Window:
        if len(self.pattern) > n_layer:
            raise ConfigError(
                f"window.pattern={self.pattern} is longer than model.n_layer={n_layer}, which would leave letters out: "
                f"window.pattern={self.pattern[:n_layer]} or model.n_layer={len(self.pattern)} would do"
            )
        return Full() if self.pattern[layer % len(self.pattern)] == "G" else Sliding(self.size)

    def covers(self, length: int) -> bool:
        return self.widest.covers(length)

    def allows(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return self.widest.allows(q_pos, k_pos)
