"""Norms. One file a variant: a module made from the model's shape, (..., D) -> (..., D)."""
