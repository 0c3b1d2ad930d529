"""Start and stop child processes and workers, handle signals, and write the logs of workers."""
