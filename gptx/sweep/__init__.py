"""Sweeps: many runs from one command line, as Hydra sweeper plugins."""
