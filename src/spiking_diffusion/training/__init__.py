"""Training and using the models: one module per stage, and the loop they share."""
