"""Check the bounds of an encoding's options. All error messages have the same form."""

from gptx.errors import ConfigError


def above(key: str, value: float, bound: float, example: float) -> None:
    """Raise ConfigError unless ``pos.key=value`` is more than ``bound``; ``example`` is recommended."""
    if not value > bound:  # also true for nan
        raise ConfigError(f"pos.{key}={value:g}: expected more than {bound:g}, such as {example:g}")


def at_least(key: str, value: float, bound: float, example: float) -> None:
    """Raise ConfigError unless ``pos.key=value`` is at least ``bound``; ``example`` is recommended."""
    if not value >= bound:
        raise ConfigError(f"pos.{key}={value:g}: expected at least {bound:g}, such as {example:g}")
