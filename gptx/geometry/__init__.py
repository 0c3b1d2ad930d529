"""What the axes and the model share: model sizes, visibility of keys, the interface between attention and model."""
