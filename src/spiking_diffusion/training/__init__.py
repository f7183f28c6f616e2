"""The training loop that all models share, and its checkpoints."""
