"""Compose and check a config, name what it computes, build its objects. Does not import torch."""
