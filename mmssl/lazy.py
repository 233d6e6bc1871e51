"""Modules that are imported where they are first used: so that options can be read, listed and checked without torch.

`later` is for who uses a module, `attributes` for a package that offers names out of its modules::

    if TYPE_CHECKING:
        import torch
    else:
        torch = later("torch", __name__)

    else:
        __getattr__ = attributes(__name__, Modality=".modality")

What `later` gives stands for the module until anything is asked of it; then the module is imported, and takes its
place in all that declared it. From there on it costs nothing, and torch.compile sees the module itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

_OWNERS: dict[str, set[str]] = {}
"""Module -> names of the modules that declared it."""


class _Later:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        module = importlib.import_module(self._name)
        for name in _OWNERS.pop(self._name, ()):
            owner = vars(sys.modules[name]) if name in sys.modules else {}
            for key, value in list(owner.items()):
                if isinstance(value, _Later) and value._name == self._name:
                    owner[key] = module
        return getattr(module, attribute)


def later(name: str, owner: str) -> Any:
    """The module `name`, or what stands for it in the module `owner` until it is used there."""
    if name in sys.modules:
        return sys.modules[name]
    _OWNERS.setdefault(name, set()).add(owner)
    return _Later(name)


def attributes(package: str, **where: str) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562): name -> the module, relative to the package, that it is taken from when it
    is first asked for."""

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(importlib.import_module(where[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
