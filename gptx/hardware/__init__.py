"""The hardware of a run: device and dtype, CPU threads and heap, and the description that a run records."""
