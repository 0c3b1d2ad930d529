"""Optimisers, one file per variant, and the update step that all of them share."""
