"""HTML is written by Jinja2's templates alone: what stands in it may be somebody else's words, and is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from .errors import shown


@cache
def templates(*folders: Path) -> Any:
    """The environment of the templates in some folders: a name is looked for in the first one first."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finished(value: Any) -> Any:
        """Texts without what moves or turns others; of several lines each."""
        plain = isinstance(value, str) and not isinstance(value, Markup)
        return "\n".join(map(shown, value.split("\n"))) if plain else value

    found = Environment(
        finalize=finished,
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["drawn"] = Markup  # of what draws, and of the files beside the templates alone
    return found
