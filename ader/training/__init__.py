"""Walking a method's stages: batches, losses, checkpoints, cost."""
