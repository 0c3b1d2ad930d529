"""What the axes and the model share: the sizes of a model, and which key a query may see."""
