"""Attention kernels: the same function computed in different ways. `reference` is the slow and obvious one."""
