"""The small model's corpus and training."""
