"""Benchmark of a config: `python -m ddjax.benchmark`."""
