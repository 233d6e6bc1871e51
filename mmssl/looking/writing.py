"""A recipe as YAML with a reason behind what was chosen."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import RunError, shown
from ..options import plainyaml

WIDTH = 120
ENDS = str.maketrans(dict.fromkeys("\u2028\u2029\x85", " "))


def commented(data: Mapping[str, Any], why: Mapping[str, str], head: Sequence[str]) -> str:
    """The text of a recipe.

    Args:
        data: it, plain.
        why: dotted key -> the reason for its value, which stands behind it.
        head: lines in front, as comments.

    Raises:
        RunError: the text is not read as the same recipe.
    """
    lines = [f"# {_safe(line)}" for line in head]
    for key, value in data.items():
        lines += ["", *_entry(key, value, (), why, 0)]
    text = "\n".join(lines).rstrip("\n") + "\n"
    if plainyaml.parse(text, "the recipe") != data:
        raise RunError("the recipe that was written is not read as the same one; please report it")
    return text


def _safe(text: str) -> str:
    """A reason on one line: names out of somebody's data may hold line ends, and a comment ends with its line."""
    return shown(" ".join(text.split())).translate(ENDS)


def _entry(key: str, value: Any, path: tuple[str, ...], why: Mapping[str, str], indent: int) -> Iterator[str]:
    """The lines of a key and its value."""
    here = (*path, key)
    dotted, space = ".".join(here), " " * indent
    reason = why.get(dotted)
    name = plainyaml.in_one_line(key)
    if isinstance(value, Mapping) and value:
        within = any(other.startswith(f"{dotted}.") for other in why)
        line = f"{space}{name}: {plainyaml.in_one_line(value)}"
        if not path or within or len(line) + (len(reason) + 4 if reason else 0) > WIDTH:
            yield from _with_reason(f"{space}{name}:", reason, space)
            for inner, of in value.items():
                yield from _entry(str(inner), of, here, why, indent + 2)
            return
    if isinstance(value, str) and key == "description":
        yield f"{space}{name}: >-"
        yield from textwrap.wrap(value, WIDTH, initial_indent=f"{space}  ", subsequent_indent=f"{space}  ")
        return
    line = f"{space}{name}: {plainyaml.in_one_line(value)}"
    if isinstance(value, list) and len(line) > WIDTH:
        yield from _with_reason(f"{space}{name}:", reason, space)
        yield from (f"{space}  - {plainyaml.in_one_line(one)}" for one in value)
        return
    yield from _with_reason(line, reason, space)


def _with_reason(line: str, reason: str | None, space: str) -> Iterator[str]:
    if not reason:
        yield line
        return
    safe = _safe(reason)
    if len(line) + len(safe) + 4 <= WIDTH:
        yield f"{line}  # {safe}"
        return
    for part in textwrap.wrap(safe, WIDTH - len(space) - 2):
        yield f"{space}# {part}"
    yield line
