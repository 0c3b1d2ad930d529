"""Attention kernels: different ways to compute the same function. `reference` is the slow and simple one."""
