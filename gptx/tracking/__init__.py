"""MLflow: a view of the journals, written by a process of its own."""
