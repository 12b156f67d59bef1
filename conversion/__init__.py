"""From published PyTorch checkpoints to model folders and back; nothing else imports torch."""
