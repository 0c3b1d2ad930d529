"""Searches over a space, with trials that may be stopped early."""
