"""The plan of a sweep: its cells and whether they are done, their budgets, memory and time, the rungs of a halving."""
