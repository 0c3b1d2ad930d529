"""The training loop, evaluation, checkpoints, resuming, and the resume certificate."""
