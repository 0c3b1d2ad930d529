"""The plan of a sweep: its cells, their budgets, memory and time, and the rungs of a halving."""
