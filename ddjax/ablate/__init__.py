"""Ablations: one key of a config after another, over values and seeds."""
