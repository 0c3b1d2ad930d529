"""Sweeps: many runs from one command line. The same command resumes: it skips the cells that are done (`plan.cells`).

A cell is done if its run folder has a result. `grid_sweeper` runs all combinations, `search.search_sweeper` those that
optuna chooses.
"""
