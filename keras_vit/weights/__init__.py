"""Checkpoints of other libraries: reading them into a model, and writing them."""
