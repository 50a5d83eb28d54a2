"""Serving: export, the servers and the clients.

The names below are found on first use, so that `import serving` costs nothing and the client side
never touches TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.client import AsyncClient, Client, ServingError

__all__ = ["AsyncClient", "Client", "ServingError"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("serving.client"), name)
    raise AttributeError(f"module 'serving' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
