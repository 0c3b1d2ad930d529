"""Norm variants, one file each: a module constructed from the model's shape, (..., D) -> (..., D)."""
