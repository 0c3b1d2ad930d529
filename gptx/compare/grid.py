"""The effects of factors, where the arms form a grid."""

from typing import TYPE_CHECKING

from gptx.compare.findings import GridEffects

if TYPE_CHECKING:
    from gptx.compare.comparison import Comparison


def grid_effects(comparison: "Comparison") -> GridEffects | None:
    """None if the arms form no grid."""
    return None
