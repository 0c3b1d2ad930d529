"""What the schedules share: the linear warm-up and the check of fractions."""

from gptx.errors import ConfigError


def check_fractions(**given: float) -> None:
    """Refuse a value outside 0..1.

    Raises:
        ConfigError: names the key and its value.
    """
    for key, value in given.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"schedule.{key}={value}: expected a fraction, 0 to 1")


def warm(step: int, warmup_steps: float) -> float:
    """The linear warm-up: from 1/(warmup_steps + 1) at step 0 to 1."""
    return (step + 1) / (warmup_steps + 1) if step < warmup_steps else 1.0
