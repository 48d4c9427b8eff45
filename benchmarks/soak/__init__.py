"""Is memory flat at the machine's limit: ``python -m benchmarks.soak``."""
