"""Run the cells of a sweep on this machine or on Slurm, each in a separate process, and display their progress."""
