"""Does the promise hold for life: ``python -m benchmarks.promise``."""
