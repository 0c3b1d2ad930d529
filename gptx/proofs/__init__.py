"""Properties that every model variant must have, checked on small models with random weights: `gptx prove`."""
