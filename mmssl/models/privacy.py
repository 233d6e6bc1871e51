"""Nothing of the user's machine leaves it: paths are cut before they go into a card, a config or a processor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit


def public_path(path: str) -> str:
    """What may be shown of a path: nothing above its last part; of a URL neither user nor query.

    A name (`builtin:digits`, a Hub id, a recipe's relative path without `..`) is shown as it is.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
    if scheme and scheme[1] != "file":
        parts = urlsplit(path)
        host = parts.hostname or ""
        return f"{parts.scheme}://{host}{parts.path}"
    if scheme:
        path = path[len("file://") :]
    prefix = re.match(r"[a-z][a-z0-9_]+:(?=.)", path)  # a modality's own kind of file: graph:FILE
    if prefix:
        return prefix[0] + public_path(path[prefix.end() :])
    windows, posix = PureWindowsPath(path), PurePosixPath(path)
    if windows.drive or "\\" in path:
        return windows.name or "(a local folder)"
    if posix.is_absolute() or path.startswith("~") or ".." in posix.parts:
        name = posix.name
        return name if name and name != ".." and not name.startswith("~") else "(a local folder)"
    return path


def public(value: Any) -> Any:
    """`value` (JSON-like) with every string that is a path of somebody's machine cut by `public_path`."""
    if isinstance(value, Mapping):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if isinstance(value, str) and _is_path(value):
        return public_path(value)
    return value


def _is_path(text: str) -> bool:
    start = r"([a-z][a-z0-9_]+:)?([/~]|\.\.[/\\])|[A-Za-z]:[\\/]|\\\\|[A-Za-z][A-Za-z0-9+.-]*://"
    return bool(re.match(start, text)) or "/../" in text
