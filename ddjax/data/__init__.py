"""Data: examples to learn from, and their order."""
