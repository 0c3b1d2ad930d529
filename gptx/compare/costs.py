"""Costs of arms."""

from typing import TYPE_CHECKING

from gptx.compare.findings import ArmCost

if TYPE_CHECKING:
    from gptx.compare.comparison import Comparison


def arm_costs(comparison: "Comparison") -> tuple[ArmCost, ...]:
    """One for each arm and each cost."""
    return ()
