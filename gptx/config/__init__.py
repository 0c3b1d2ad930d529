"""Compose and check a config, name what it computes, build its objects. No torch in here."""
