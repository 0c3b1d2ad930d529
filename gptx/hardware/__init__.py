"""The device, its precision, its threads, and what it is called."""
