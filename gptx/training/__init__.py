"""The training loop, evaluation, checkpoints, certificate; `run_lifecycle` resumes a run and restarts lost workers."""
