"""MLflow: a view of the journals, written by a separate process."""
