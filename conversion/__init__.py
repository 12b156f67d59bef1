"""Conversion of published PyTorch checkpoints to model folders and back; only it needs torch."""
