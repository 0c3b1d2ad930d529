"""Hydra finds sweepers in this namespace only; those of gptx are written in gptx.sweep."""

from gptx.sweep import grid
from gptx.sweep.search import sweeper


class GridSweeper(grid.GridSweeper):
    """Defined here because Hydra checks the module in which a class is defined."""


class SearchSweeper(sweeper.SearchSweeper):
    """Defined here for the same reason."""
