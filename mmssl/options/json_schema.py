"""The JSON schema (draft 2020-12) of options: what an editor completes, explains and underlines in a recipe.

It says what the declarations say: keys, types, ranges, choices, defaults and help. What holds between two keys, and
names that refer to others, is checked when the recipe is read. A dataclass becomes one entry of `$defs`, and so does
each shipped type of a polymorphic part.
"""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from .describing import about
from .schema import Variant, field_names, hints_of, to_dict

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
SCALARS: Final[dict[object, str]] = {
    float: "number",
    int: "integer",
    bool: "boolean",
    str: "string",
    Path: "string",
    type(None): "null",
}
Schema = dict[str, Any]


class Schemas:
    """Collects what several places refer to; `defs` is the schema's `$defs`."""

    def __init__(self) -> None:
        self.defs: dict[str, Schema] = {}

    def of(self, kind: object, meta: object = None) -> Schema:
        """The schema of an annotated type; `meta` is the metadata of the option that has it."""
        origin, args = get_origin(kind), get_args(kind)
        if origin is Annotated:
            variant = next((mark for mark in args[1:] if isinstance(mark, Variant)), None)
            return self.of(args[0], meta) if variant is None else self.part(variant)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(one, meta) for one in args]}
        if origin is Literal:
            return {"enum": list(args)}
        if kind in SCALARS:
            return {"type": SCALARS[kind], **(_limits(kind, meta) if meta else {})}
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return self.reference(f"{kind.__module__.removeprefix('mmssl.')}.{kind.__name__}", kind)
        if origin in (list, tuple) or kind in (list, tuple):
            return {"type": "array", "items": self.of(args[0], meta) if args else {}}
        if origin is dict or kind is dict:
            return self.mapping(args[1] if args else Any, meta)
        return {}

    def mapping(self, kind: object, meta: object) -> Schema:
        """Names of the user's to values of a type."""
        out: Schema = {
            "type": "object",
            "propertyNames": {"pattern": r"^[^.]+$"},
            "additionalProperties": self.of(kind, meta),
        }
        marks = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
        for variant in (mark for mark in marks if isinstance(mark, Variant)):
            # the key is the type, where the part does not give one
            named = [name for name in variant.names() if variant.default(name) == name]
            if named:
                out["properties"] = {name: self.default_part(variant, name) for name in named}
        return out

    def part(self, variant: Variant) -> Schema:
        """A part that gives its type (`type: jepa`), or has one that does not depend on its key."""
        name = variant.what
        if name not in self.defs:
            self.defs[name] = {}  # there, while its own types are being told of
            shipped = variant.names()
            default = variant.default("")
            options = [
                {
                    "if": {"properties": {"type": {"const": one}}, "required": ["type"]},
                    "then": self.part_options(variant, one),
                }
                for one in shipped
            ]
            if default:
                options.append({"if": {"not": {"required": ["type"]}}, "then": self.part_options(variant, default)})
            self.defs[name] = {
                "type": "object",
                "properties": {
                    "type": {
                        "description": f"the {name}: a shipped one, or the dotted path of anybody's",
                        "anyOf": [{"enum": shipped}, {"type": "string", "pattern": r"\."}],
                    }
                },
                **({} if default else {"required": ["type"]}),
                "allOf": options,
            }
        return {"$ref": f"#/$defs/{name}"}

    def default_part(self, variant: Variant, name: str) -> Schema:
        """A part under the key of a shipped type, which may leave its `type` out."""
        return {"if": {"required": ["type"]}, "then": self.part(variant), "else": self.part_options(variant, name)}

    def part_options(self, variant: Variant, name: str) -> Schema:
        """A reference to the options of one variant, whose definition is made the first time."""
        key = f"{variant.what}.{name}"
        reference = self.reference(key, variant.load(name))
        self.defs[key]["properties"].setdefault("type", {"type": "string"})
        return reference

    def reference(self, key: str, cls: type) -> Schema:
        """A dataclass, as an entry of `$defs`."""
        if key not in self.defs:
            self.defs[key] = {}
            self.defs[key] |= self.of_class(cls)
        return {"$ref": f"#/$defs/{key}"}

    def of_class(self, cls: type) -> Schema:
        """The schema of a dataclass of options."""
        properties: dict[str, Schema] = {}
        required: list[str] = []
        hints = hints_of(cls)
        for key, field in field_names(cls).items():
            schema = self.of(hints[field.name], field.metadata)
            if field.metadata.get("help"):
                schema = {"description": field.metadata["help"], **schema}
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            if default is dataclasses.MISSING:
                required.append(key)
            elif not dataclasses.is_dataclass(default):
                schema = {**schema, "default": to_dict(default)}
            properties[key] = schema
        out: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if about(cls):
            out = {"description": about(cls).partition("\n\n")[0].replace("\n", " "), **out}
        return out | ({"required": required} if required else {})


def _limits(kind: Any, meta: Any) -> Schema:
    """The declared range of a scalar."""
    out: Schema = {}
    if kind in (int, float):
        out |= {key: value for key, value in meta.get("bounds", {}).items() if value is not None}
    choices = meta.get("choices")
    if choices is not None and kind is not type(None):
        fitting = [choice for choice in choices if type(choice) is kind]
        out |= {"enum": fitting} if fitting else {}
    if kind is str and meta.get("pattern"):
        out["pattern"] = meta["pattern"]
    return out
