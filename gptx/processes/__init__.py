"""Child processes and workers (the ranks of a run): start, stop, signals, logs; what happens when a worker fails."""
