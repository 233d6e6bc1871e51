"""mmssl reproduce."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, nearest
from ..hub.record import FILE, Comparison, compare, read_record

MAY_CHANGE = ("data.path", "data.workers", "evaluation.path", "train.log_every", "train.trackers", "train.save_every")
"""Keys that say where something is or what is written, not what is computed; and every `model.towers.NAME.from`."""


def reproduce(model: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None) -> Comparison:
    """Train a published model again from its card, on the same data, and compare weights and scores.

    model: a model folder, the folder of a run, or a Hub id. overrides: where the data lies here, `data.path=...` (the
    card holds no paths of its author's machine). UserError without a record, for other overrides, and when the data
    here are not the card's.
    """
    from ..data.fingerprint import fingerprint
    from ..recipe.loading import load_recipe
    from .building import open_training_data
    from .pretrain import pretrain

    record = read_record(model)
    _check_overrides(overrides)
    recipe = load_recipe(record["recipe"], list(overrides))
    source, columns = open_training_data(recipe.data, recipe.modalities)
    used = [c for value in columns.values() for c in ([value] if isinstance(value, str) else value)]
    found = fingerprint(source, used)
    if found != record["data"]:
        was = record["data"]
        raise UserError(
            f"data.path: '{recipe.data.path}' has {found['rows']} rows (SHA-256 {found['sha256'][:12]}), expected the "
            f"card's {was['rows']} rows ({was['sha256'][:12]}); name them with data.path=..."
        )
    run = pretrain(recipe, output=output)
    now = json.loads((run.model_folder / FILE).read_text(encoding="utf-8"))
    return compare(record, now, run.folder)


def _check_overrides(overrides: Sequence[str]) -> None:
    for text in overrides:
        key = text.partition("=")[0].strip()
        parts = key.split(".")
        tower = parts[:2] == ["model", "towers"] and parts[3:] == ["from"]
        if key not in MAY_CHANGE and not tower:
            known = [*MAY_CHANGE, "model.towers.NAME.from"]
            hint = nearest(key, known)
            raise UserError(f"override '{text}': it would be another run, expected one of {', '.join(known)}{hint}")
