"""Values and annotated types in the words of error messages."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from ..errors import shown

SCALARS: Final[dict[object, str]] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def show(value: object) -> str:
    """A value as a message shows it, with its kind in words."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{shown(value if len(value) <= 60 else value[:57] + '...')}' (text)"
    if isinstance(value, (int, float)):
        return f"{value}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, list(value)[:4])) + (", ..." if len(value) > 4 else "")
        return f"a mapping ({keys})" if value else "an empty mapping"
    return f"{value!r} ({type(value).__name__})"


def describe(kind: object) -> str:
    """An annotated type in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return describe(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(k) for k in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if kind in SCALARS:
        return SCALARS[kind]
    if shape(kind) == "mapping":
        return "a mapping"
    if shape(kind) == "list":
        inner = [k for k in args if k is not Ellipsis]
        fixed = origin is tuple and Ellipsis not in args and args
        count = f" of {len(inner)}" if fixed else ""
        return f"a list{count}" + (f" ({describe(inner[0])} each)" if inner and inner[0] is not Any else "")
    return "anything"


def shape(kind: object) -> str:
    """Whether "list", "mapping" or "scalar": what an annotated type looks like in YAML."""
    origin = get_origin(kind) or kind
    if origin in (list, tuple):
        return "list"
    return "mapping" if origin is dict or dataclasses.is_dataclass(kind) else "scalar"


def shape_of(value: object) -> str:
    """The same of a value."""
    if isinstance(value, (list, tuple)):
        return "list"
    return "mapping" if isinstance(value, Mapping) else "scalar"
