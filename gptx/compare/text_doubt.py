"""How much of a difference is due to the choice of the validation text."""

from typing import TYPE_CHECKING

from gptx.compare.findings import ArmTextDoubt

if TYPE_CHECKING:
    from gptx.compare.comparison import Comparison


def text_doubts(comparison: "Comparison") -> tuple[ArmTextDoubt, ...]:
    """One for each arm but the baseline."""
    return ()
