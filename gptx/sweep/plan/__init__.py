"""What a sweep will run: its cells, their budgets, memory and time."""
