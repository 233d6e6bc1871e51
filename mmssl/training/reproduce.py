"""mmssl reproduce."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, nearest
from ..hub.record import FILE, Comparison, compare, read_record
from ..options.schema import local_options
from ..recipe.config import Recipe


def reproduce(model: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None) -> Comparison:
    """Train a published model again from its card, on the same data, and compare weights and scores.

    Args:
        model: a model folder, the folder of a run, or a Hub id.
        overrides: where the data lies here, `data.path=...` (the card holds no paths of its author's machine).
        output: folder of the new run.

    Raises:
        UserError: there is no record, an override would make it another run, or the data here are not the card's.
    """
    from ..data.fingerprint import fingerprint
    from ..recipe.loading import load_recipe
    from .building import open_training_data
    from .pretrain import pretrain

    record = read_record(model)
    check_overrides(overrides)
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


def check_overrides(overrides: Sequence[str]) -> None:
    """Only options that say where something is or what is written (`local`) may be others than the card's."""
    known = local_options(Recipe)
    for text in overrides:
        key = text.partition("=")[0].strip()
        if not any(_is(key, one) for one in known):
            hint = nearest(key, known)
            raise UserError(f"override '{text}': it would be another run, expected one of {', '.join(known)}{hint}")


def _is(key: str, option: str) -> bool:
    """Whether a dotted key is that option, in which NAME stands for any name."""
    parts, names = key.split("."), option.split(".")
    return len(parts) == len(names) and all(b in (a, "NAME") for a, b in zip(parts, names, strict=True))
