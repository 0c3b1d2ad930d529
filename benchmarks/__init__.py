"""Measurements behind the figures of the documentation. Each module is a command: python -m benchmarks.NAME --help."""
