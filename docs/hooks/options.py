"""Tables of options in Markdown, from what `mmssl show` tells (see `mmssl.options.describing`)."""

from __future__ import annotations

from typing import get_type_hints

from mmssl.options.describing import Described, nested, options_of
from mmssl.options.schema import field_names


def table(cls: type, prefix: str = "") -> str:
    """All options of a dataclass, those of nested ones with dotted keys; a line where it has none."""
    rows = [row(option) for option in options_of(cls, prefix)]
    return "\n".join(["| option | type | default | |", "|---|---|---|---|", *rows]) if rows else "It has no options."


def row(option: Described) -> str:
    """One option's line."""
    needs = "only with " + " and ".join(f"`{need}`" for need in option.needs) if option.needs else ""
    about = "; ".join(words for words in (option.help, option.range, needs) if words)
    key = option.key.replace(".*", ".<name>")
    return f"| `{key}` | {cell(option.type)} | `{option.default}` | {cell(about)} |"


def sections(cls: type) -> dict[str, type]:
    """The options of a dataclass that are groups of options themselves, such as the sections of a recipe."""
    hints = get_type_hints(cls, include_extras=True)
    below = {key: [kind for kind, _ in nested(hints[field.name])] for key, field in field_names(cls).items()}
    return {key: kinds[0] for key, kinds in below.items() if kinds}


def cell(text: str) -> str:
    """Text of a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
