"""What a run leaves on disk: its folder, journal, checkpoint files, and where it came from. Does not import torch."""
