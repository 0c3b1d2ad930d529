"""Tokenizers: text to token ids and back. One file per variant."""
