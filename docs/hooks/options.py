"""Tables of options in Markdown, from the dataclasses that declare them (see `mmssl.options.option`)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from mmssl.options.schema import Part, field_names, to_dict
from mmssl.options.wording import describe


@dataclass(frozen=True)
class Row:
    """One option: its dotted key, type and default in words, its range, what it is for, where it has an effect."""

    key: str
    kind: str
    default: str
    range: str
    help: str
    needs: str


def table(cls: type, prefix: str = "") -> str:
    """All options of a dataclass, those of nested ones with dotted keys; a line where it has none."""
    rows = list(rows_of(cls, prefix))
    if not rows:
        return "It has no options."
    lines = ["| option | type | default | |", "|---|---|---|---|"]
    for row in rows:
        words = [row.help, row.range, f"only with `{row.needs}`" if row.needs else ""]
        about = "; ".join(word for word in words if word)
        lines.append(f"| `{row.key}` | {cell(row.kind)} | {row.default} | {cell(about)} |")
    return "\n".join(lines)


def rows_of(cls: type, prefix: str = "") -> Iterator[Row]:
    """The options of a dataclass in the order of their declaration."""
    hints, needs = get_type_hints(cls, include_extras=True), needs_of(cls)
    for key, field in field_names(cls).items():
        kind = hints[field.name]
        inner = nested(kind)
        expected = field.metadata.get("expected") or ""
        choices = field.metadata.get("choices")
        if choices:
            expected = "one of " + ", ".join(f"`{choice}`" for choice in choices)
        yield Row(
            f"{prefix}{key}",
            describe(kind),
            default_of(field),
            expected,
            field.metadata.get("help") or "",
            needs.get(field.name, ""),
        )
        if inner is not None:
            yield from rows_of(inner[1], f"{prefix}{key}.{inner[0]}")


def needs_of(cls: type) -> dict[str, str]:
    """Option -> what it needs to have an effect, from the `NEEDS` of the class and its bases."""
    declared = [need for base in cls.__mro__ for need in vars(base).get("NEEDS", ())]
    return {name: need.words for need in reversed(declared) for name in need.options}


def nested(kind: Any) -> tuple[str, type] | None:
    """The dataclass whose options stand below this one, if any, behind `<name>.` where the user names several."""
    if get_origin(kind) is Annotated:
        return nested(get_args(kind)[0])
    found = [k for k in (kind, *get_args(kind)) if isinstance(k, type) and dataclasses.is_dataclass(k)]
    if not found or get_origin(kind) in (list, tuple):
        return None
    return "<name>." if get_origin(kind) is dict else "", found[0]


def sections(cls: type) -> dict[str, type]:
    """The options of a dataclass that are groups of options themselves, such as the sections of a recipe."""
    hints = get_type_hints(cls, include_extras=True)
    below = {key: nested(hints[field.name]) for key, field in field_names(cls).items()}
    return {key: inner[1] for key, inner in below.items() if inner is not None and inner[1] is not Part}


def default_of(field: dataclasses.Field[Any]) -> str:
    """The default as a recipe writes it."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return "see below"
    return f"`{json.dumps(to_dict(value), ensure_ascii=False)}`"


def cell(text: str) -> str:
    """Text of a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
