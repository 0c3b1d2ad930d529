"""Corpora -> token files -> batches. numpy only: nothing here knows torch."""
