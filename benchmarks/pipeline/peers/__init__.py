"""The same job for other stream processors, written as their users would; see ``benchmarks.pipeline``."""
