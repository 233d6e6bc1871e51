"""The look-up of modality packages by name, without torch.

A modality is a package `mmssl_<name>` (ours live under `modalities/`, a stranger's on PyPI), or any dotted path. It
exports three names::

    Config          a @strict dataclass of the options that a user may set in the recipe
    Preprocessor    raw samples -> tensors; saved with the model
    Modality        the only nn.Module that knows pixels, volts or cells

and some that it may leave out::

    View            a `mmssl.modality.view.View`: the options of an augmented view
    READS           what raw values it takes, in a line
    NEEDS           {import name: what pip installs} of packages that it imports only when such a file is read
    SLICES          the type of modality whose encoders see its samples slice by slice (`model.towers.X.from`)

Recipes are read, listed and shown from `Config`, `View`, `READS` and `NEEDS` alone. Where a package gives
`Preprocessor` and `Modality` by a `__getattr__` (see `mmssl.lazy.attributes`), torch is not imported for that.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .. import provenance
from ..errors import UserError, nearest

if TYPE_CHECKING:
    from .view import View


def modality_names() -> list[str]:
    """Names of all installed modality packages (`mmssl_<name>`); none is imported."""
    return provenance.installed_names()


def load_modality(name: str, place: str | Path | None = None) -> ModuleType:
    """The package of modality `name`, with all of its parts: `image` -> `mmssl_image`; a dotted path as it is.

    For names out of a model folder, which may be a stranger's: only an installed package is imported, or what the user
    named in this process (see `mmssl.provenance`). place: that folder.

    Raises UserError when there is none, when it lacks a part, when it is not to be trusted, or when a package that it
    needs is not installed.
    """
    where = f"modality '{name}'"
    parts = ("Config", "Preprocessor", "Modality")
    return _load(name, parts, lambda module: provenance.by_stranger(module, where, place))


def modality_package(name: str) -> ModuleType:
    """The same of a name that the user gives, of which no more is sure, and imported, than what describes it: `Config`
    and its facts. A dotted path may be any module: it is the user's own."""
    return _load(name, ("Config",), provenance.by_user)


def modality_config(name: str) -> type:
    """The options of modality `name`, which the user gives."""
    config: type = modality_package(name).Config
    return config


def view_options(name: str) -> type[View] | None:
    """The class that declares the options of augmented views of modality `name`, where its package has one."""
    found: type[View] | None = getattr(modality_package(name), "View", None)
    return found


def view_kinds(name: str) -> tuple[tuple[str, ...], bool]:
    """(names of the options of its augmented views, whether it has corrupted views) of modality `name`."""
    view = view_options(name)
    if view is None:  # a package that does not say so in front
        modality = load_modality(name).Modality
        return modality.views, modality.corruptible
    return view.names(), view.corruptible


def crossing_views(name: str) -> tuple[str, ...]:
    """The options of the augmented views of modality `name` that take from other rows of the batch."""
    view = getattr(modality_package(name), "View", None)
    found: tuple[str, ...] = load_modality(name).Modality.crossing if view is None else view.crossing
    return found


def _load(name: str, parts: Sequence[str], find: Callable[[str], ModuleType]) -> ModuleType:
    module_name = name if "." in name else f"mmssl_{name}"
    try:
        module = find(module_name)
        lacking = [part for part in parts if not hasattr(module, part)]  # imports those that come when asked for
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            known = modality_names()
            raise UserError(
                f"unknown modality '{name}', expected one of {', '.join(known)} or a dotted path{nearest(name, known)}"
            ) from None
        raise UserError(
            f"modality '{name}' needs the package '{error.name}', which is not installed: pip install 'mmssl[{name}]'"
        ) from error
    if lacking:
        raise UserError(f"modality package '{module_name}' has no '{lacking[0]}' (see mmssl.modality)")
    return module


def installed(package: str) -> bool:
    """Whether a package can be found, by its import name, without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None
