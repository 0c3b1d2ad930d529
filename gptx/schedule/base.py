"""Code that all schedules share: the linear warm-up, and the check of their arguments."""

from gptx.errors import ConfigError


def check_fractions(**values: float) -> None:
    """Check that the values of these keys are in 0..1.

    Raises:
        ConfigError: one of them is not.
    """
    for key, value in values.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"schedule.{key}={value}: expected a fraction from 0 to 1")


def warmup_factor(step: int, warmup_steps: float) -> float:
    """The factor of the linear warm-up: from 1/(warmup_steps + 1) at step 0 to 1."""
    return (step + 1) / (warmup_steps + 1) if step < warmup_steps else 1.0
