"""Compose a config from YAML and overrides, check it, name what it computes, and build its parts. No torch."""
