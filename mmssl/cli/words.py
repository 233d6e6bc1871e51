"""What the words of several commands mean."""

from __future__ import annotations

from ..errors import UserError


def columns_of(words: list[str]) -> dict[str, str | list[str]]:
    """`["image=img", "table=a,b"]` -> `{"image": "img", "table": ["a", "b"]}`."""
    columns: dict[str, str | list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        column = listed(value)
        if not equals or column is None:
            raise UserError(f"--column: found '{word}', expected MODALITY=COLUMN, e.g. image=img")
        columns[name] = column
    return columns


def listed(text: str | None) -> str | list[str] | None:
    """`"a,b"` -> `["a", "b"]`, `"a"` as it is."""
    if not text:
        return None
    return text.split(",") if "," in text else text
