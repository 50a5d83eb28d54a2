"""Recipes by name: `RECIPES["digits"]`.

Each has a docstring that says what it is, the command, and what to expect. Importing them is light:
the command line shows them as `--help`.
"""

from training.recipes import augreg, deit, fine_tuning, pretraining, small
from training.recipes.registry import RECIPES

__all__ = ["RECIPES", "augreg", "deit", "fine_tuning", "pretraining", "small"]
