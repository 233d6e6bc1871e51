"""From plain data (YAML, JSON, dicts) to strict dataclasses, reporting every fault at once.

`load` walks nested dataclasses, lists, dicts, unions and polymorphic parts. Each fault is one line with its dotted
path, what was found and what was expected; nothing stops at the first one::

    train.batchsize: found an unknown key, expected one of steps, epochs, ...; did you mean 'batch_size'?
    train.lr: found 'fast' (text), expected a number

Ranges are those that `mmssl.options.option` declares. Only classes whose data is right are constructed; a part with
faults becomes a `Draft` that holds `BAD` where a value is unusable, so that later checks still see all the rest.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from huggingface_hub.errors import StrictDataclassError

from ..errors import UserError, nearest
from . import idle_options
from .wording import SCALARS, describe, shape, shape_of, show

T = TypeVar("T")
Faults = list[str]
Foreign = Callable[[str], str | None]
Draft = types.SimpleNamespace


class _Bad:
    """The type of `BAD`."""

    def __repr__(self) -> str:
        return "BAD"


BAD: Final = _Bad()
"""Stands for a value that has been reported as faulty."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A polymorphic part of a recipe: the name of its type and the config that this type declares."""

    type: str
    config: Any


@dataclasses.dataclass(frozen=True)
class Variant:
    """Says how to read a `Part`: `dict[str, Annotated[Part, Variant("mask", load_mask, mask_names)]]`.

    what: the word for messages. load: name -> dataclass of its options, UserError when there is none.
    names: all shipped names. default: the type of a part that gives none, from its key.
    """

    what: str
    load: Callable[[str], type]
    names: Callable[[], list[str]]
    default: Callable[[str], str]

    def owner(self, option: str, but: str) -> str | None:
        """`"a key of objective 'mae'"` when another type of this kind has that option."""
        for name in self.names():
            try:
                options = field_names(self.load(name)) if name != but else {}
            except UserError:  # that type's own package is missing: it only cannot help with this hint
                continue
            if option in options:
                return f"a key of {self.what} '{name}'"
        return None


# ---------------------------------------------------------------------------------------------------------- loading


def load(cls: type[T], data: object, check: Callable[[Any, Faults], None] | None = None, path: str = "") -> T:
    """An instance of dataclass `cls` from plain data.

    check: called with the instance (or its `Draft`) and the faults so far, to add those between several keys.
    Raises one UserError with a line a fault.
    """
    faults: Faults = []
    built = build(cls, data, path, faults)
    if check is not None and built is not BAD:
        check(built, faults)
    if faults:
        raise UserError("\n".join(faults))
    return built


def build(cls: type, data: object, path: str, faults: Faults, foreign: Foreign | None = None) -> Any:
    """An instance of dataclass `cls`; a `Draft` when it has faults; `BAD` when `data` is no mapping.

    foreign: what a key is that `cls` does not know but somebody else does, e.g. "a key of objective 'mae'".
    """
    if not isinstance(data, Mapping):
        faults.append(f"{path or 'recipe'}: found {show(data)}, expected a mapping")
        return BAD
    known = field_names(cls)
    hints = hints_of(cls)
    before = len(faults)
    refused: Mapping[str, str] = getattr(cls, "REFUSED", {})  # words of others, with the reason
    for key in data:
        if key in known:
            continue
        if key in refused:
            faults.append(f"{path}.{key}".lstrip(".") + f": {refused[key]}")
        else:
            faults.append(_unknown_key(key, data, known, path, foreign))
    values: dict[str, Any] = {}
    for key, field in known.items():
        where = f"{path}.{key}" if path else key
        kind = hints[field.name]
        if key in data:
            count = len(faults)
            values[field.name] = convert(kind, data[key], where, faults)
            if len(faults) == count:
                _check_range(field, values, data[key], where, faults)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if dataclasses.is_dataclass(kind):  # name the keys that are missing in it rather than the whole
                values[field.name] = convert(kind, {}, where, faults)
            else:
                faults.append(f"{where}: found no such key, expected {describe(kind)} (required)")
                values[field.name] = BAD
    if len(faults) > before:
        return _draft(cls, values)
    try:
        built = cls(**values)
    except StrictDataclassError as error:  # its validate_* refuses; the cause is the line without the frame around it
        faults.append(f"{path or 'recipe'}: {error.__cause__ or error}")
        return _draft(cls, values)
    except (ValueError, TypeError) as error:  # its __post_init__ refuses
        faults.append(f"{path or 'recipe'}: {error}")
        return _draft(cls, values)
    faults += [f"{path}.{yaml_name(name)}".lstrip(".") + f": {line}" for name, line in idle_options(built)]
    return built


def _draft(cls: type, values: dict[str, Any]) -> Draft:
    for field in dataclasses.fields(cls):
        if field.name not in values and field.init:
            factory = field.default_factory
            values[field.name] = field.default if factory is dataclasses.MISSING else factory()
    return Draft(**values)


def _unknown_key(
    key: object, data: Mapping[object, object], known: Mapping[str, object], path: str, foreign: Foreign | None
) -> str:
    where = f"{path}.{key}" if path else str(key)
    owner = foreign(key) if foreign is not None and isinstance(key, str) else None
    hint = "" if owner else nearest(str(key), [k for k in known if k not in data]) or nearest(str(key), known)
    return f"{where}: found {owner or 'an unknown key'}, expected one of {', '.join(known) or '(no keys)'}{hint}"


def _check_range(
    field: dataclasses.Field[Any], values: dict[str, Any], raw: object, where: str, faults: Faults
) -> None:
    """Run the field's validators; `raw` is the value as the user wrote it, for the message."""
    validators = field.metadata.get("validator") or []
    for validator in validators if isinstance(validators, list) else [validators]:
        error = _refusal(validator, values[field.name])
        if error is None:
            continue
        line, expected = str(error), field.metadata.get("expected")
        if expected:
            wrong = next((leaf for leaf in _leaves(raw) if _refusal(validator, leaf)), raw)
            hint = nearest(wrong, field.metadata.get("choices") or ()) if isinstance(wrong, str) else ""
            line = f"found {show(wrong)}, expected {expected}{hint}"
        faults.append(f"{where}: {line}")
        values[field.name] = BAD
        return


def _refusal(validator: Callable[[Any], None], value: object) -> Exception | None:
    try:
        validator(value)
    except (ValueError, TypeError) as error:
        return error
    return None


def _leaves(value: object) -> list[object]:
    if isinstance(value, Mapping):
        value = list(value.values())
    return [leaf for v in value for leaf in _leaves(v)] if isinstance(value, (list, tuple)) else [value]


# ------------------------------------------------------------------------------------------------------- conversion


def convert(kind: object, value: object, path: str, faults: Faults) -> Any:
    """`value` as the annotated type `kind`, or `BAD` after adding to `faults`."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        for mark in args[1:]:
            if isinstance(mark, Variant):
                return _part(mark, value, path, faults)
        return convert(args[0], value, path, faults)
    if kind is Any:
        return copy.deepcopy(value)
    if origin in (Union, types.UnionType):
        return _union(kind, value, path, faults)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        return _mismatch(kind, value, path, faults, nearest(value, args) if isinstance(value, str) else "")
    if dataclasses.is_dataclass(kind):
        return build(kind if isinstance(kind, type) else type(kind), value, path, faults)
    if origin in (list, tuple) or kind in (list, tuple):
        return _sequence(kind, value, path, faults)
    if origin is dict or kind is dict:
        return _mapping(kind, value, path, faults)
    if kind in SCALARS:
        return _scalar(kind, value, path, faults)
    raise TypeError(f"{path}: mmssl.options.schema cannot read an option of the type {kind}")


def _part(mark: Variant, value: object, path: str, faults: Faults) -> object:
    if not isinstance(value, Mapping):
        hint = "; write {} for its defaults" if value is None else ""
        return _mismatch(dict, value, path, faults, hint)
    options = dict(value)
    name = options.pop("type", None) if "type" in value else mark.default(path.rpartition(".")[2])
    where = f"{path}.type" if "type" in value else path
    if not isinstance(name, str):
        return _mismatch(str, name, where, faults)
    try:
        cls = mark.load(name)
    except UserError as error:
        faults.append(f"{where}: {error}")
        return BAD
    return Part(name, build(cls, options, path, faults, foreign=lambda key: mark.owner(key, but=name)))


def _union(kind: object, value: object, path: str, faults: Faults) -> object:
    kinds = [k for k in get_args(kind) if k is not type(None)]
    if value is None and len(kinds) < len(get_args(kind)):
        return None
    speakers: list[Faults] = []
    # the exact type first, so that 3 stays an int in `float | int`
    for candidate in sorted(kinds, key=lambda k: type(value) not in (k, get_origin(k))):
        own: Faults = []
        out = convert(candidate, value, path, own)
        if not own:
            return out
        if shape(candidate) == shape_of(value) != "scalar":
            speakers.append(own)
    if len(speakers) == 1:  # one alternative has the value's shape: what is wrong inside it says more
        faults.extend(speakers[0])
        return BAD
    return _mismatch(kind, value, path, faults)


def _sequence(kind: object, value: object, path: str, faults: Faults) -> object:
    if not isinstance(value, (list, tuple)):
        return _mismatch(kind, value, path, faults)
    args = get_args(kind)
    is_tuple = tuple in (kind, get_origin(kind))
    if is_tuple and args and args[-1] is not Ellipsis:
        if len(args) != len(value):
            return _mismatch(kind, value, path, faults)
        kinds = list(args)
    else:
        kinds = [args[0] if args else Any] * len(value)
    out = [convert(k, v, f"{path}.{i}", faults) for i, (k, v) in enumerate(zip(kinds, value, strict=True))]
    if any(item is BAD for item in out):
        return BAD
    return tuple(out) if is_tuple else out


def _mapping(kind: object, value: object, path: str, faults: Faults) -> object:
    if not isinstance(value, Mapping):
        return _mismatch(kind, value, path, faults)
    args = get_args(kind)
    out: dict[str, object] = {}
    for key, item in value.items():
        if not isinstance(key, str) or "." in key or not key:
            faults.append(f"{path}: found the key {show(key)}, expected text without a dot")
            continue
        out[key] = convert(args[1] if args else Any, item, f"{path}.{key}", faults)
    return out


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _scalar(kind: object, value: object, path: str, faults: Faults) -> object:
    if kind is float and not isinstance(value, bool):
        # text: `1e-4` from a YAML 1.1 reader other than ours
        if isinstance(value, (int, float)) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number
            faults.append(f"{path}: found {show(value)}, expected a finite number")
            return BAD
    elif kind is Path and isinstance(value, (str, Path)):
        return Path(value)
    elif type(value) is kind:
        return value
    return _mismatch(kind, value, path, faults)


def _mismatch(kind: object, value: object, path: str, faults: Faults, hint: str = "") -> _Bad:
    faults.append(f"{path}: found {show(value)}, expected {describe(kind)}{hint}")
    return BAD


# ---------------------------------------------------------------------------------------------------------- writing


def to_dict(value: object) -> Any:
    """Plain data (dicts, lists, scalars) from which `load` builds `value` again."""
    if isinstance(value, Part):
        return {"type": value.type, **to_dict(value.config)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {yaml_name(f.name): to_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a recipe holds plain data only, found {type(value).__name__}: {value!r}")


# ------------------------------------------------------------------------------------------------------------ fields


def yaml_name(name: str) -> str:
    """The key of a field: `from_` -> `from`."""
    return name.removesuffix("_")


@functools.cache
def field_names(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """YAML key -> field of a dataclass."""
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__module__}.{cls.__qualname__} must be a dataclass to be read from a recipe")
    return {yaml_name(f.name): f for f in dataclasses.fields(cls) if f.init}


@functools.cache
def hints_of(cls: type) -> dict[str, object]:
    """Name of a field -> its type, with what annotates it."""
    return get_type_hints(cls, include_extras=True)


def local_options(cls: type, path: str = "") -> list[str]:
    """Dotted keys of the options below `cls` that are declared `local`; NAME stands for the user's own names."""
    found = []
    for key, field in field_names(cls).items():
        where = f"{path}.{key}".lstrip(".")
        if field.metadata.get("local"):
            found.append(where)
        kind = hints_of(cls)[field.name]
        if get_origin(kind) is dict:
            where, kind = f"{where}.NAME", get_args(kind)[1]
        for inner in get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                found += local_options(inner, where)
    return found
