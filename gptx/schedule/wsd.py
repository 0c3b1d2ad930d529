"""Warm-up, stable, decay (Hu et al. 2024; Hagele et al. 2024)."""

import math

from gptx.schedule.base import check_fractions, warmup_factor

ID = "schedule.wsd"
REVISION = 1


def wsd(step: int, max_steps: int, *, warmup: float, decay: float, final: float) -> float:
    """Return the factor on the peak learning rate at ``step``: a linear warm-up to 1, constant, then a decay of the
    form 1 - sqrt(x) to ``final``, where x grows from 0 to 1 (Hagele et al. 2024).

    Args:
        warmup, decay: lengths of the first and the last phase, as fractions of max_steps.
    """
    check_fractions(warmup=warmup, decay=decay, final=final)
    left = (max_steps - step) / max(1.0, decay * max_steps)
    falling = 1.0 if left >= 1 else final + (1 - final) * (1 - math.sqrt(1 - left))
    return min(warmup_factor(step, warmup * max_steps), falling)
