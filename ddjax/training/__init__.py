"""Training: the one training loop and what it reports."""
