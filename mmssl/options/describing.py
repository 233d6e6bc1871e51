"""What can be said of options from their declaration alone: for `mmssl show`, the JSON schema and the reference pages.

`options_of` walks a dataclass of options and those nested in it. Nothing is built and nothing heavy is imported.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Union, get_args, get_origin

from ..errors import UserError
from .schema import Variant, field_names, hints_of, to_dict
from .wording import describe

REQUIRED: Final = "required"
"""`Described.default` of an option that must be given."""


@dataclass(frozen=True)
class Described:
    """One option.

    Attributes:
        key: its key; dotted below the config it is nested in, `*` for a name of the user's (`decoders.*.width`).
        type: in words, "a whole number or null".
        default: as YAML writes it, `REQUIRED`, or the name of the nested options' own defaults: "{}".
        range: what values it takes beside that, ">= 1", "one of 'a', 'b'"; "" for any.
        help: what it is.
        needs: with what it has an effect, "teacher: ema"; all of them must hold; () for always.
    """

    key: str
    type: str
    default: str
    range: str
    help: str
    needs: tuple[str, ...] = ()


def options_of(cls: type, path: str = "") -> Iterator[Described]:
    """Every option of a dataclass, each followed by those nested in it."""
    hints = hints_of(cls)
    for key, field in field_names(cls).items():
        kind = hints[field.name]
        where = f"{path}{key}"
        meta = field.metadata
        needs = tuple(dict.fromkeys(n.words for c in cls.__mro__ for n in _needs(c) if field.name in n.options))
        yield Described(where, describe(kind), default_of(field), meta.get("expected", ""), meta.get("help", ""), needs)
        for inner, below in nested(kind):
            yield from options_of(inner, f"{where}.{below}")


def _needs(cls: type) -> tuple[Any, ...]:
    return tuple(vars(cls).get("NEEDS", ()))


def nested(kind: object) -> Iterator[tuple[type, str]]:
    """(dataclass, "" or "*." for one of many) of each that an annotated type holds."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated and any(isinstance(mark, Variant) for mark in args[1:]):
        return  # of one type or another: told of by itself
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        yield kind, ""
    elif origin in (Union, types.UnionType, Annotated):
        for one in args[:1] if origin is Annotated else args:
            yield from nested(one)
    elif origin in (dict, list):
        for inner, below in nested(args[-1]):
            yield inner, f"*.{below}"


def default_of(field: dataclasses.Field[Any]) -> str:
    """The default as YAML has it on one line; `REQUIRED` where there is none."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return REQUIRED
    return "{}" if dataclasses.is_dataclass(value) else in_line(to_dict(value))


def in_line(value: object) -> str:
    """Plain data on one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {in_line(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_line, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if value != "" and not isinstance(value, float) else repr(value)


def docstring(module: str) -> str:
    """The docstring of a module, read off its source: importing it might import torch."""
    return ast.get_docstring(source_of(module)) or ""


def source_of(module: str) -> ast.Module:
    """The parsed source of a module that is not imported. UserError where there is none."""
    spec = importlib.util.find_spec(module)
    loader: object = spec.loader if spec is not None else None
    source = loader.get_source(module) if hasattr(loader, "get_source") else None
    if source is None:
        raise UserError(f"{module}: has no source that could be read")
    return ast.parse(source)


def about(cls: type) -> str:
    """The docstring of a class, without the signature that `dataclass` writes where there is none."""
    text = inspect.getdoc(cls) if vars(cls).get("__doc__") else ""
    return "" if not text or text.startswith(f"{cls.__name__}(") else text
