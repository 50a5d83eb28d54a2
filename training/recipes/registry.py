"""Where recipes register under their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from training.config import Recipe

RECIPES: dict[str, Recipe] = {}


def recipe(make: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Register a recipe under the name of the function, which may end in an underscore.

    Args:
        make: returns the recipe; its docstring says what it is, the command, and what to expect,
            and becomes the docstring of the recipe.

    Returns:
        The function.

    Example:
        >>> from training.recipes import RECIPES
        >>> print(RECIPES["digits"].__doc__.splitlines()[0])
        scikit-learn's handwritten digits, 8 x 8 pixels: the small one that runs anywhere.
    """
    made = make()
    object.__setattr__(made, "__doc__", inspect.cleandoc(make.__doc__ or ""))
    RECIPES[make.__name__] = made
    return make
