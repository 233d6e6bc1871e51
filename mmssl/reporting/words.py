"""Values of others' data in a line."""

from __future__ import annotations

from ..errors import shown

MOST = 80


def text_in_line(value: object, most: int = MOST) -> str:
    """A value in at most `most` characters, none of which moves or turns the others."""
    text = shown(" ".join((f"{value:.4g}" if isinstance(value, float) else str(value)).split()))
    return text if len(text) <= most else f"{text[: most - 1]}…"
