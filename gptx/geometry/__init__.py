"""Shared by the axes and the model: model sizes, visibility of keys, the interface between attention and model."""
