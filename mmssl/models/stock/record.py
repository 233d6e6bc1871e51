"""`mmssl_export.json`: what a stock class has no place for, so that mmssl can embed with an export as it did before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..locating import fetched
from .exportable import Exportable

RECORD = "mmssl_export.json"
KEPT = {"video": ("fps", "default_fps", "background"), "image": ("background",)}
"""Options of a modality that no stock processor has."""


def write_record(source: Exportable, name: str, kinds: list[str], folder: Path) -> None:
    """How the exported towers pool, and what of their preprocessing the stock processor does not hold."""
    from ..privacy import public

    parts = {}
    for kind in kinds:
        for part in source.parts(kind):
            options = {key: getattr(part.preprocessor.config, key) for key in KEPT.get(kind, ())}
            if kind == "video" and "fps" in part.preprocessor.state:
                options["fps"] = part.preprocessor.state["fps"]
            if kind == "audio" and part.foreign:
                options["seconds"] = part.preprocessor.config.seconds  # no class of raw sound has a length
            parts[kind] = {"pooling": part.options.pooling, "readout": part.readout, "options": public(options)}
    (folder / RECORD).write_text(json.dumps({"format": name, "parts": parts}, indent=2, sort_keys=True) + "\n")


def read_record(path: str) -> dict[str, Any]:
    """{"format", "parts": modality -> {"pooling", "readout", "options"}}, empty where there is no such file."""
    file = fetched(path, RECORD)
    if file is None:
        return {"format": None, "parts": {}}
    try:
        found = json.loads(file.read_text())
        return {"format": str(found["format"]), "parts": {kind: dict(part) for kind, part in found["parts"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its {RECORD} is damaged ({error})") from error
