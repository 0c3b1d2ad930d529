"""Sweeps: many runs from one command line. The same command resumes: sweepers skip the cells whose run is finished.

`grid_sweeper` runs every combination, `search.search_sweeper` those that optuna chooses. Whether a cell is done is read
from its run folder (`plan.cells.Cell.done`).
"""
