"""Sweeps that decide while runs train what is trained next: a search by optuna, and successive halving."""
