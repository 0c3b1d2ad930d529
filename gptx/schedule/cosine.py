"""Linear warm-up, then half a cosine (Loshchilov and Hutter 2017)."""

import math

from gptx.schedule.base import check_fractions, warmup_factor

ID = "schedule.cosine"
REVISION = 1


def cosine(step: int, max_steps: int, *, warmup: float, final: float) -> float:
    """The factor on the peak rate: half a cosine from 1 at the end of the warm-up to ``final`` at ``max_steps``.

    Args:
        warmup: fraction of max_steps.
    """
    check_fractions(warmup=warmup, final=final)
    start = warmup * max_steps
    if step < start:
        return warmup_factor(step, start)
    progress = (step - start) / max(1.0, max_steps - start)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
