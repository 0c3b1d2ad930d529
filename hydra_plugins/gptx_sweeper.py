"""Hydra loads sweepers and launchers from this namespace only; gptx's own live in gptx.sweep."""

from gptx.sweep.grid import GridSweeper

__all__ = ["GridSweeper"]
