"""Running the cells: on this machine or on Slurm, each in its own process."""
