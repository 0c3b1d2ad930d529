"""Positional encodings. One file a variant; `base.PositionalEncoding` names the four places a position may enter."""
