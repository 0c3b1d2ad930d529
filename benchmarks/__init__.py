"""The measurements that the documentation reports. Each module is a command: python -m benchmarks.NAME --help."""
