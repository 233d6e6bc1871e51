"""Sounds that a browser plays as they are, as addresses that hold them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

from ..boundary import regular_file
from ..errors import BadSample

MOST = 1 << 18
"""Bytes of a sound; a page holds a dozen of them."""
KINDS = {
    b"RIFF": "audio/wav",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
    b"ID3": "audio/mpeg",
    b"\xff\xfb": "audio/mpeg",
    b"\xff\xf3": "audio/mpeg",
}
"""How a file begins -> what it is."""


def playable(raw: object) -> str:
    """The address of a raw sound: bytes, a path, or a struct of both. Empty where it is of another kind, too long, not
    there, or a part of a longer one."""
    if isinstance(raw, Mapping):
        if raw.get("start") is not None:
            return ""
        raw = raw.get("bytes") or raw.get("path")
    if isinstance(raw, str | Path):
        try:
            path = regular_file(raw)
        except BadSample:  # who reads the sound itself says why
            return ""
        raw = path.read_bytes() if path.stat().st_size <= MOST else b""
    if not isinstance(raw, bytes) or len(raw) > MOST:
        return ""
    kind = next((kind for start, kind in KINDS.items() if raw.startswith(start)), "")
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}" if kind else ""
