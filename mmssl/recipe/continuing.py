"""`model.from`: a recipe that goes on from a saved model takes over whatever it does not say itself.

Its modalities (options and all), its towers and its projection come from the model's own files, so that preprocessing
and architecture are those it was trained with. What the recipe does say beside its `model.from` must be the same, or
may concern the training alone (`adapter`, `frozen`, `dropout`, `drop_path`); where an override adds `model.from` to a
recipe, the recipe's architecture gives way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from ..errors import UserError, nearest
from ..models.options import YOURS

logger = logging.getLogger("mmssl")

OF_DATA = ("source_rate", "source_unit", "source_channels", "layout", "checksums", "beats")
"""Options of modalities that say what the data are, not what the model is given."""


def refuse_placeholder(origin: str | None, towers: Mapping[str, str | None], name: str) -> None:
    """UserError where the recipe `name` still waits for a model of the user's: as its `model.from`, or as the `from` of
    some of its towers."""
    waiting = [f"model.towers.{tower}.from" for tower, start in towers.items() if start == YOURS]
    if waiting:
        words = " ".join(f"{key}=MODEL" for key in waiting)
        raise UserError(
            f"{waiting[0]}: found none, expected the encoder to start from: mmssl pretrain {name} {words} "
            f"data.path=DATA (a folder of transformers, timm:FOLDER, open_clip:NAME, or a Hub id)"
        )
    if origin == YOURS:
        raise UserError(
            f"model.from: found none, expected the encoder to go on from: mmssl pretrain {name} model.from=MODEL "
            f"data.path=DATA (a folder of transformers or of mmssl, a run, or a Hub id)"
        )


def begun_by(merged: Mapping[str, object]) -> str | None:
    """What a recipe with its overrides, that names a run in `train.after`, has as its `model.from`, where it does not
    say so itself: that run. UserError for another `model.from`."""
    train, model = merged.get("train"), merged.get("model")
    after = train.get("after") if isinstance(train, Mapping) else None
    origin = model.get("from") if isinstance(model, Mapping) else None
    if not isinstance(after, str) or origin == after:
        return None
    if origin not in (None, YOURS):
        raise UserError(f"model.from: found {origin} beside train.after = {after}, expected it to be left out")
    return after


def give_way(data: dict[str, Any], merged: Mapping[str, object]) -> None:
    """A recipe that says nothing of `model.from`, which an override adds: its own architecture and preprocessing give
    way to the model's; in place. merged: the recipe with its overrides.
    """
    model, overridden = data.get("model"), merged.get("model")
    if not isinstance(model, dict) or not isinstance(overridden, dict):
        return
    if isinstance(overridden.get("from"), str) and "from" not in model:
        data.pop("modalities", None)
        for key in ("towers", "projection", "projection_hidden", "projection_dropout", "projection_standard"):
            model.pop(key, None)


def take_over(data: dict[str, Any], faults: list[str]) -> None:
    """Fill the recipe `data` from the model that its `model.from` names, in place; nothing where it names none."""
    model = data.get("model")
    origin = model.get("from") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(origin, str) or origin == YOURS:
        return
    from ..models.opening import FREE, saved_parts

    try:
        config, processor = saved_parts(origin)
    except UserError as error:  # without them nothing else can be judged
        raise UserError(f"model.from: {error}") from error
    # `saved_parts` has made sure of what they name: the recipe is the user's, the folder may be somebody else's
    parts = {n: {"type": p["type"], **p["config"]} for n, p in processor["modalities"].items()}
    towers = {n: _tower(t) for n, t in config["towers"].items()}
    data["modalities"] = _joined(data.get("modalities"), parts, OF_DATA, "modalities", origin, faults)
    model["towers"] = _joined(model.get("towers"), towers, FREE, "model.towers", origin, faults)
    for key in ("projection", "projection_hidden", "projection_standard"):
        kept = config.get(key, False if key == "projection_standard" else None)
        if model.setdefault(key, kept) != kept:
            faults.append(f"model.{key}: found {model[key]}, but {origin} has {kept}; leave it out")


def _tower(spec: Mapping[str, object]) -> dict[str, Any]:
    """The options of a tower; where a converted one once came from is past: its weights are the model's own."""
    past = ("foreign",) if spec.get("foreign") else ("foreign", "from", "convert")
    return {key: value for key, value in spec.items() if key not in past}


def _joined(
    given: object, kept: dict[str, Any], free: tuple[str, ...], where: str, origin: str, faults: list[str]
) -> dict[str, Any]:
    """The model's own parts with what the recipe says of them; a contradiction is a fault."""
    out = {name: dict(part) for name, part in kept.items()}
    for name, part in (given if isinstance(given, dict) else {}).items():
        if name not in kept:
            faults.append(f"{where}.{name}: {origin} has no such part, it has {', '.join(kept)}{nearest(name, kept)}")
            continue
        for key, value in (part if isinstance(part, dict) else {}).items():
            known = kept[name].get(key)
            if key in free or key not in kept[name]:
                out[name][key] = value  # an unknown key is the schema's fault to find
            elif json.loads(json.dumps(value)) != known and not (key == "modalities" and known in ([], value)):
                faults.append(f"{where}.{name}.{key}: found {value!r}, but {origin} has {known!r}; leave it out")
    return out


def leave_behind(data: Mapping[str, object], merged: Mapping[str, object]) -> None:
    """Take out of a recipe what it says of its own data alone, where an override names other data.

    A `source_rate` that is right for the data of a shipped recipe would be taken for that of any other arrays, without
    a word. Data are the same where the last part of the recipe's path is a part of the other's, too.

    Args:
        data: the recipe, changed in place.
        merged: the same with the overrides in it.
    """
    before, after = (part.get("data") for part in (data, merged))
    paths = [part.get("path") if isinstance(part, Mapping) else None for part in (before, after)]
    own, other = (str(path).replace("\\", "/").rstrip("/").split("/") if path else [] for path in paths)
    modalities = data.get("modalities")
    if not own or not other or own[-1] in other or not isinstance(modalities, dict):
        return
    for name, options in modalities.items():
        said = [key for key in options if key in OF_DATA] if isinstance(options, dict) else []
        if said:
            logger.warning(
                "modalities.%s: %s of the recipe belong to its own data (%s) and are not taken for %s; "
                "set them where these do not say it themselves",
                name,
                ", ".join(said),
                own[-1],
                paths[1],
            )
        for key in said:
            del options[key]
