"""Packed data and data written by `save_to_disk`, looked at before `datasets` unpacks or opens what they say."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmssl.boundary import inside, read_json_object, reading_of
from mmssl.errors import UserError
from mmssl.limits import current

OPEN: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
PACKED = (*OPEN, ".zip")
MOST_RATIO = 100
"""Tables of text get 5 to 20 times larger when they are unpacked, bombs a thousand times."""
PIECE = 1 << 22


def refuse_bombs(files: Iterable[str | Path]) -> None:
    """UserError where a packed file gets larger than `data.limits.bytes` and over a hundred times its size."""
    for file in map(Path, files):
        packed, most = file.stat().st_size, current().bytes
        unpacked = 0
        with reading_of(f"data.path: '{file}' cannot be unpacked"):
            if file.suffix.lower() in OPEN and packed * 2000 > most:  # no packer gets further than that
                with OPEN[file.suffix.lower()](file, "rb") as opened:
                    while unpacked <= most and (piece := opened.read(PIECE)):
                        unpacked += len(piece)
            elif file.suffix.lower() == ".zip":
                with zipfile.ZipFile(file) as archive:
                    unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > most and unpacked > MOST_RATIO * packed:
            raise UserError(f"data.path: '{file}' unpacks from {packed:,} to over {most:,} bytes (data.limits.bytes)")


def check_saved(folder: Path) -> None:
    """UserError where data that `save_to_disk` wrote name files outside of their own folder."""
    for state in (folder / "state.json", *folder.glob("*/state.json")):
        if not state.is_file():
            continue
        said = read_json_object(state, f"data.path: '{state}'")
        for key in ("_data_files", "_indices_data_files"):
            for item in said.get(key) or ():
                inside(state.parent, item.get("filename") if isinstance(item, dict) else item, f"'{state}': {key}")
