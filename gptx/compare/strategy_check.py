"""Whether the strategy changes the result."""

from typing import TYPE_CHECKING

from gptx.compare.findings import StrategyCheck

if TYPE_CHECKING:
    from gptx.compare.comparison import Comparison


def strategy_check(comparison: "Comparison") -> StrategyCheck:
    """Empty unless arms differ in the strategy only."""
    return StrategyCheck()
