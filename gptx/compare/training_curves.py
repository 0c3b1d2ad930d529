"""Arms during training."""

from typing import TYPE_CHECKING

from gptx.compare.findings import ArmCurve, ArmReach

if TYPE_CHECKING:
    from gptx.compare.comparison import Comparison


def arm_reaches(comparison: "Comparison") -> tuple[ArmReach, ...]:
    """One for each arm but the baseline and each unit of cost."""
    return ()


def arm_curves(comparison: "Comparison") -> tuple[ArmCurve, ...]:
    """One for each arm."""
    return ()
