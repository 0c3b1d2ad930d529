"""What the axes and the model share: model sizes, which key a query may see, the interface between attention and model."""
