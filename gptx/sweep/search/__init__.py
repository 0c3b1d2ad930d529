"""Sweeps that decide what to train next while other runs train: a search by optuna, and successive halving."""
