"""The folder of a sweep on disk, its status, and its live display."""
