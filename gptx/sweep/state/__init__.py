"""The folder of a sweep: its plan, and a journal of how its runs ended and what a halving decided."""
