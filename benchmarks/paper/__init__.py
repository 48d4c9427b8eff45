"""The paper's tasks, its method and ours: ``python -m benchmarks.paper``."""
