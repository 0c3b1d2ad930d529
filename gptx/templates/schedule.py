"""A schedule of your own: a function of the step.

How it is called: docs/contracts.md#schedule of gptx.
"""

from gptx.schedule.base import check_fractions, warmup_factor


def schedule_template(step: int, max_steps: int, *, warmup: float) -> float:
    """The factor on the peak rate: linear warm-up, then 1/sqrt(step).

    Args:
        step: from 0.
        max_steps: number of steps of the run.
        warmup: fraction of max_steps.
    """
    check_fractions(warmup=warmup)
    start = max(1.0, warmup * max_steps)
    return warmup_factor(step, start) if step < start else float((start / step) ** 0.5)
