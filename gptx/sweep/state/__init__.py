"""The folder of a sweep: its plan and journal, the status of its runs, and the live dashboard."""
