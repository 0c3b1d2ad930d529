"""Run the cells of a sweep on this machine or on Slurm, each in a process of its own."""
