"""The training loop of all models, and its checkpoints."""
