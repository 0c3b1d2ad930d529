"""How much memory a run will need, computed before it starts."""
