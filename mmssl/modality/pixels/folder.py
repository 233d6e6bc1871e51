"""A folder of pictures that belong together, in their order: the frames of a video, the slices of a volume."""

from __future__ import annotations

import re
from pathlib import Path

from ...boundary import within_places
from ...errors import BadSample

PICTURES = frozenset(".png .jpg .jpeg .webp .bmp .tif .tiff .ppm .pgm .npy".split())


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts "frame10" after "frame9"."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order; BadSample where it has none, or lies where samples may not read."""
    within_places(folder)
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    if not found:
        raise BadSample(f"no pictures in folder '{folder}'")
    return sorted(found, key=natural)
