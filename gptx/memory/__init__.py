"""Estimates, before a run starts, of the memory (RAM or GPU memory) that it will need."""
