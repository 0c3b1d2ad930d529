"""Learning-rate schedules: pure functions of the step, as a fraction of the peak. One YAML each in conf/schedule."""

import math

from gptx.errors import ConfigError


def _shares(**given: float) -> None:
    for key, value in given.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"schedule.{key}={value}: expected a share, 0 to 1")


def _warm(step: int, warmup_steps: float) -> float:
    return (step + 1) / (warmup_steps + 1) if step < warmup_steps else 1.0


def cosine(step: int, max_steps: int, *, warmup: float, final: float) -> float:
    """Half a cosine from 1 at the end of the warm-up to ``final`` at ``max_steps`` (Loshchilov and Hutter 2017)."""
    _shares(warmup=warmup, final=final)
    start = warmup * max_steps
    if step < start:
        return _warm(step, start)
    way = (step - start) / max(1.0, max_steps - start)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, way)))


def wsd(step: int, max_steps: int, *, warmup: float, decay: float, final: float) -> float:
    """Warm-up, stable, decay: constant, then 1 - sqrt to ``final`` over the last ``decay`` (Hagele et al. 2024)."""
    _shares(warmup=warmup, decay=decay, final=final)
    left = (max_steps - step) / max(1.0, decay * max_steps)
    falling = 1.0 if left >= 1 else final + (1 - final) * (1 - math.sqrt(1 - left))
    return min(_warm(step, warmup * max_steps), falling)


def constant(step: int, max_steps: int, *, warmup: float) -> float:
    """Constant after the warm-up."""
    _shares(warmup=warmup)
    return _warm(step, warmup * max_steps)
