"""The files of a run: its folder, journal, checkpoint files, and the provenance of its code. Does not import torch."""
