"""Linear warm-up, then constant."""

from gptx.schedule.base import check_fractions, warm

ID = "schedule.constant"
REVISION = 1


def constant(step: int, max_steps: int, *, warmup: float) -> float:
    """Constant after the warm-up."""
    check_fractions(warmup=warmup)
    return warm(step, warmup * max_steps)
