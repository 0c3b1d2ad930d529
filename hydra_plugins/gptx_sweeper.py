"""Hydra takes sweepers and launchers from this namespace only; gptx's own live in gptx.sweep."""

from gptx.sweep import grid
from gptx.sweep.search import sweeper


class GridSweeper(grid.GridSweeper):
    """A class of this module's, for Hydra asks a class where it was defined."""


class SearchSweeper(sweeper.SearchSweeper):
    """The same."""
