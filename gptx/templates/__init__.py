"""The files that `gptx new AXIS NAME` copies: for each axis a Python file and a YAML file that work as they are."""
