"""mmssl reproduce."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..hub.record import FILE, Comparison, compare, read_record
from ..models.privacy import public
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
    from ..recipe.loading import load_recipe
    from .building import open_training_data
    from .mixture import noted, open_mixture
    from .pretrain import pretrain

    record = read_record(model)
    check_overrides(overrides)
    recipe = load_recipe(own_places(record["recipe"], overrides), list(overrides), own=False)
    opened = open_training_data(recipe)
    found = noted(opened.source, opened.columns, open_mixture(recipe, opened))
    check_data("data.path", recipe.data.path, found, record["data"])
    for name, of in found.get("mix", {}).items():
        check_data(f"data.mix.{name}.path", recipe.data.mix[name].path, of, record["data"].get("mix", {}).get(name, {}))
    run = pretrain(recipe, output=output)
    now = json.loads((run.model_folder / FILE).read_text(encoding="utf-8"))
    return compare(record, now, run.folder)


def check_data(key: str, path: str, found: Mapping[str, Any], was: Mapping[str, Any]) -> None:
    """UserError where the data here are not those of the card; those that are mixed in are looked at by themselves."""
    told = ("rows", "hashed", "sha256")
    if [found[name] for name in told] != [was.get(name) for name in told]:
        raise UserError(
            f"{key}: '{path}' has {found['rows']} rows (SHA-256 {found['sha256'][:12]}), expected the "
            f"card's {was.get('rows')} rows ({str(was.get('sha256'))[:12]}); name them with {key}=..."
        )


TRACKERS = ("tensorboard",)
"""The trackers that write files here and send nothing anywhere."""


def own_places(recipe: Mapping[str, object], overrides: Sequence[str]) -> Mapping[str, Any]:
    """A card's recipe, of which no more than names is left where it says where something is.

    UserError where it names a place on this machine, an address or a tracker that sends the run away, and the user does
    not name another one.
    """
    given = {text.partition("=")[0].strip() for text in overrides}
    for key, value in _leaves(recipe):
        named = [option for option in local_options(Recipe) if _is(key, option)]
        if not named or key in given:
            continue
        for one in value if isinstance(value, list) else [value]:
            if key == "train.trackers" and one is not None and one not in TRACKERS:
                raise UserError(f"{key}: the card has the tracker {one!r:.60}, which sends the run elsewhere: {key}=[]")
            if isinstance(one, str) and key != "data.source" and ("://" in one or public(one) != one):
                raise UserError(
                    f"{key}: the card has {one!r:.80}, a place or address of its author's; name it: {key}=..."
                )
    return recipe


def _leaves(value: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of everything in nested mappings that is none itself."""
    for key, item in value.items():
        where = f"{path}.{key}".lstrip(".")
        if isinstance(item, Mapping):
            yield from _leaves(item, where)
        else:
            yield where, item


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
