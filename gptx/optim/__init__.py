"""Optimisers. One file a variant, and the update step that all share."""
