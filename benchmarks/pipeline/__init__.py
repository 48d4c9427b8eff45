"""Layercache beside other stream processors: ``python -m benchmarks.pipeline``."""
