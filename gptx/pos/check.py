"""Bounds on an encoding's numbers, refused in one way."""

from gptx.errors import ConfigError


def above(key: str, value: float, bound: float, example: float) -> None:
    """Refuses ``pos.key=value`` unless it is more than ``bound``."""
    if not value > bound:  # so that nan is refused too
        raise ConfigError(f"pos.{key}={value:g}: expected more than {bound:g}, such as {example:g}")


def at_least(key: str, value: float, bound: float, example: float) -> None:
    """Refuses ``pos.key=value`` if it is less than ``bound``."""
    if not value >= bound:
        raise ConfigError(f"pos.{key}={value:g}: expected at least {bound:g}, such as {example:g}")
