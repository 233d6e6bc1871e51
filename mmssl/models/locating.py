"""Where the files of a model lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UserError

FREE = ("adapter", "frozen", "dropout", "drop_path")
"""Keys of a tower that a recipe may set anew."""


def model_files(origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config.json, processor_config.json) of a model folder, a run, or a Hub id. UserError when they are not there.

    Of an adapter: the architecture that it remembers.
    """
    from transformers.utils import cached_file

    inner = Path(origin) / "model"
    place = str(inner) if inner.is_dir() else origin
    found = []
    adapter = (Path(place) / "mmssl_adapter.json").is_file()
    for name in ("mmssl_adapter.json" if adapter else "config.json", "processor_config.json"):
        try:
            found.append(json.loads(Path(str(cached_file(place, name))).read_text()))
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise UserError(f"model.from: '{origin}': no model of mmssl: {name} cannot be read ({reason})") from error
    config = found[0].get("architecture", {}) if adapter else found[0]
    if not isinstance(config.get("towers"), dict) or not isinstance(found[1].get("modalities"), dict):
        raise UserError(f"model.from: '{origin}' holds another kind of model, expected one that mmssl trained")
    return config, found[1]
