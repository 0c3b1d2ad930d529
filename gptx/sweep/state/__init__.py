"""The folder of a sweep: its plan and its journal."""
