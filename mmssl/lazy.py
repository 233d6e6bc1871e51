"""A module that is imported where it is first used: so that options can be read, listed and checked without torch.

    if TYPE_CHECKING:
        import torch
    else:
        torch = later("torch", __name__)

What it gives stands for the module until anything is asked of it; then the module is imported, and takes its place in
all that declared it. From there on it costs nothing, and torch.compile sees the module itself.
"""

from __future__ import annotations

import importlib
import sys
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
