"""What must not leave this machine: tokens, keys and passwords, and paths that name people.

Tokens are found by detect-secrets' detectors (Yelp; those that know a token by its form, not those that guess from its
randomness, which take every vocabulary for a secret) and by the patterns of `mmssl.models.privacy` that it lacks. They
look at text alone: no token is ever tried at its service.
"""

from __future__ import annotations

import functools
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..models.privacy import TOKENS, URL_SECRET

GUESSING = ("Base64HighEntropyString", "HexHighEntropyString", "KeywordDetector", "IPPublicDetector")
"""detect-secrets' detectors that guess."""
PLACES = "home|homes|Users|scratch|lustre|gpfs|nfs|people|staff|students?|media|Volumes|mnt/[A-Za-z]/Users"
PERSONAL = re.compile(
    r"(?:(?<![\w./:-])|(?<=file://))"
    rf"(?:(?:/[\w.+-]+){{0,4}}?/(?:{PLACES})/[\w.+-]+|/root)(?=[/\\\"'\s,;:)\]}}>`]|$)"
    r"|(?<![\w])[A-Za-z]:\\{1,2}(?:Users|Documents and Settings)\\{1,2}[\w.-]+"
    r"|\\\\[\w.-]+\\[\w.$-]+\\"
)
PNG = b"\x89PNG\r\n\x1a\n"
PNG_PLAIN = frozenset(b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB pHYs bKGD sBIT tIME hIST".split())
PNG_TEXT = frozenset((b"tEXt", b"zTXt", b"iTXt"))
MOST_TEXT = 1 << 20


def findings(text: str) -> Iterator[str]:
    """What of a text must not be published, in words; each kind once."""
    for what, form in TOKENS.items():
        if re.search(form, text):
            yield f"holds {what}; take it out"
    if re.search(URL_SECRET, text):
        yield "holds a password or a token in an address; take it out"
    told = set()
    for line in text.splitlines():
        for detector in _detectors():
            if detector.secret_type not in told and any(detector.analyze_string(line)):
                told.add(detector.secret_type)
                yield f"holds what looks like a secret ({detector.secret_type}); take it out"
    patterns: list[Any] = [*_own_paths(), PERSONAL]
    for pattern in patterns:
        place = re.search(pattern, text)
        if place:
            yield f"holds a path of this machine ('{place[0]:.60}...'); take it out"
            break


@functools.cache
def _detectors() -> tuple[Any, ...]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes: Any = get_mapping_from_secret_type_to_class().values()
    return tuple(cls() for cls in classes if cls.__name__ not in GUESSING)


def _own_paths() -> Iterator[str]:
    """Patterns of this machine's own folders that may be named after somebody."""
    for place in (Path.home(), Path.cwd(), Path(tempfile.gettempdir())):
        if len(place.parts) > 2 or place == Path.home() and len(place.parts) > 1:
            yield re.escape(str(place)) + r"(?=[/\\\"'\s,]|$)"


def text_of(path: Path, content: bytes) -> str:
    """What can be read of a file: all of a text, the texts in a picture, the printable runs of anything else.

    ValueError where a picture holds more than a picture.
    """
    if path.suffix == ".png":
        return "\n".join(_png_texts(content))
    if path.suffix in (".onnx", ".model"):
        return "\n".join(run.decode("ascii") for run in re.findall(rb"[\x20-\x7e]{8,}", content))
    return content.decode("utf-8", errors="replace")


def _png_texts(content: bytes) -> Iterator[str]:
    """The texts of a PNG, packed ones too. ValueError for what is no PNG, or holds chunks that no picture needs."""
    if not content.startswith(PNG):
        raise ValueError("is no PNG picture")
    at = len(PNG)
    while at < len(content):
        if at + 12 > len(content):
            raise ValueError("is cut off")
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += 12 + length
        if kind in PNG_TEXT:
            yield _png_text(kind, data)
        elif kind not in PNG_PLAIN:
            raise ValueError(f"holds the chunk {kind.decode('latin-1')}, expected pixels and texts alone")
        if kind == b"IEND" and at != len(content):
            raise ValueError(f"holds {len(content) - at} bytes behind its end")


def _png_text(kind: bytes, data: bytes) -> str:
    key, _, rest = data.partition(b"\0")
    if kind == b"zTXt":
        rest = _unpacked(rest[1:])
    elif kind == b"iTXt":
        packed, text = rest[:1] == b"\x01", rest[2:].split(b"\0", 2)[-1]
        rest = _unpacked(text) if packed else text
    return f"{key.decode('latin-1')} {rest.decode('utf-8', errors='replace')}"


def _unpacked(data: bytes) -> bytes:
    worker = zlib.decompressobj()
    try:
        out = worker.decompress(data, MOST_TEXT)
    except zlib.error as error:
        raise ValueError(f"holds a text that cannot be unpacked ({error})") from None
    if worker.unconsumed_tail:
        raise ValueError("holds a text of more than a megabyte")
    return out
