"""Linear warm-up, then constant."""

from gptx.schedule.base import check_fractions, warmup_factor

ID = "schedule.constant"
REVISION = 1


def constant(step: int, max_steps: int, *, warmup: float) -> float:
    """The factor on the peak rate: constant after the warm-up. ``warmup`` is a fraction of max_steps."""
    check_fractions(warmup=warmup)
    return warmup_factor(step, warmup * max_steps)
