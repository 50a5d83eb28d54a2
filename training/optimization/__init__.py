"""Optimizers, learning rates, and the rules about which variable gets what."""
