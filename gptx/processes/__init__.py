"""Child processes and workers (the ranks of a run): start, stop, signals, logs; a failed worker ends its peers."""
