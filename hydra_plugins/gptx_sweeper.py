"""Hydra finds sweepers in this namespace only; those of gptx are written in gptx.sweep."""

from gptx.sweep import grid_sweeper
from gptx.sweep.search import search_sweeper


class GridSweeper(grid_sweeper.GridSweeper):
    """Defined here because Hydra checks the module in which a class is defined."""


class SearchSweeper(search_sweeper.SearchSweeper):
    """Defined here for the same reason."""
