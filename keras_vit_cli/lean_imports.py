"""Imports that a command does not need."""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence

# Keras looks whether they are there, for its drawings and its estimators, and does without them.
_NOT_FOR_KERAS = ("matplotlib", "sklearn")


class LeanImports(importlib.abc.MetaPathFinder):
    """Hides matplotlib and scikit-learn from Keras, and from nobody else.

    Keras imports both whenever they are installed: a fifth of the time that a command needs before
    it begins. Commands that draw, or train on scikit-learn's digits, import them when it is time.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Refuse them as long as Keras is being imported; leave all else to the other finders."""
        if name in _NOT_FOR_KERAS:
            keras = sys.modules.get("keras")
            if keras is not None and not hasattr(keras, "Model"):  # which comes last
                raise ModuleNotFoundError(f"{name} is not for Keras", name=name)
        return None


def use_lean_imports() -> None:
    """Hide them in this process, which has not imported Keras yet.

    Example:
        >>> use_lean_imports()
        >>> sum(isinstance(finder, LeanImports) for finder in sys.meta_path)
        1
    """
    if not any(isinstance(finder, LeanImports) for finder in sys.meta_path):
        sys.meta_path.insert(0, LeanImports())
