"""Metrics on features: Fréchet distance, precision and recall."""
