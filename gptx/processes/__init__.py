"""Child processes, workers, their signals and their logs."""
