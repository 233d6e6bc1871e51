"""The options of runs: what of them is not the default, and what differs between runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..models.privacy import public, veiled
from ..options.describing import REQUIRED, default_of, in_line
from ..options.schema import Part, field_names, to_dict
from ..recipe.config import Recipe

ALIKE = ("name", "description")
"""Keys of a recipe that say what it is called, not what it does."""


def changed(recipe: Recipe) -> list[tuple[str, str, str]]:
    """(key, value, default) of every option that does not stand at its default; "" for what has none."""
    return [found for found in _changed(recipe, "") if found[0] not in ALIKE]


def _changed(value: Any, path: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, Part):
        if value.type != path.rpartition(".")[2]:
            yield f"{path}.type", value.type, ""
        yield from _changed(value.config, path)
        return
    cls: type = type(value)
    for key, field in field_names(cls).items():
        own, default, where = getattr(value, field.name), default_of(field), f"{path}.{key}" if path else key
        if dataclasses.is_dataclass(own) and default != "null":
            yield from _changed(own, where)
        elif isinstance(own, Mapping) and own and all(map(dataclasses.is_dataclass, own.values())):
            for name, part in own.items():
                yield from _changed(part, f"{where}.{name}")
        elif (said := in_line(_shown(own))) != default:
            yield where, said, "" if default == REQUIRED else default


def _shown(value: Any) -> Any:
    return public(veiled(to_dict(value)))


def leaves(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of plain data, without its nesting; lists stay whole."""
    if isinstance(settings, Mapping) and settings:
        for key, value in settings.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, settings


def flat(settings: Any) -> dict[str, str]:
    """Dotted key -> value in one line, of plain data."""
    return {key: in_line(value) for key, value in leaves(settings)}


def differences(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(key, its value in each run, "" where a run has no such key) of all that is not the same in every run."""
    every = [flat(one) for one in settings]
    keys = dict.fromkeys(key for one in every for key in one if key not in ALIKE)
    rows = [(key, [one.get(key, "") for one in every]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
