"""Composed configs: each is composed only once, because that takes tens of milliseconds."""

from functools import cache

from command import options_once
from omegaconf import DictConfig

from gptx.config.compose import compose
from gptx.config.compositions import Compositions

COMPOSITIONS = Compositions()  # of all tests in this process


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    return compose(overrides, COMPOSITIONS)


def composed(*overrides: str) -> DictConfig:
    """A copy of the config with these overrides, which a test may change. Of two options of a group the last counts."""
    return _composed(tuple(options_once(*overrides))).copy()
