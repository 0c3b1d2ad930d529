"""Warm-up, stable, decay (Hu et al. 2024; Hagele et al. 2024)."""

import math

from gptx.schedule.base import check_fractions, warm

ID = "schedule.wsd"
REVISION = 1


def wsd(step: int, max_steps: int, *, warmup: float, decay: float, final: float) -> float:
    """Warm-up, stable, decay: constant, then 1 - sqrt to ``final`` over the last ``decay`` (Hagele et al. 2024)."""
    check_fractions(warmup=warmup, decay=decay, final=final)
    left = (max_steps - step) / max(1.0, decay * max_steps)
    falling = 1.0 if left >= 1 else final + (1 - final) * (1 - math.sqrt(1 - left))
    return min(warm(step, warmup * max_steps), falling)
