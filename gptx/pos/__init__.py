"""Positional encodings, one file each. `base.PositionalEncoding` names the four places where a position may enter."""
