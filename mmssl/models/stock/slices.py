"""Which encoder sees a volume slice by slice: what `model.towers.X.from` names where modality X consists of pictures.

A modality says so by `SLICES` in its package: the name of the modality whose encoders see its slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ...modality import modality_names, modality_package
from ..foreign import OPEN_CLIP, TIMM
from ..locating import CONFIG, WORDS, locate, read_json


def slice_kind(kind: str) -> str | None:
    """The type of modality whose encoders see slices of one of type `kind`; None: it has no slices."""
    if "." not in kind and kind not in modality_names():
        return None  # whoever checks the recipe says so
    found: str | None = getattr(modality_package(kind), "SLICES", None)
    return found


@dataclass(frozen=True)
class OwnEncoder:
    """A tower of mmssl's own that sees single pictures.

    Attributes:
        place: the model's folder, or its id.
        tower: its name there.
        modality: the name of its modality there.
        spec: what the model's `config.json` says of the tower.
        part: what it says of the modality.
    """

    place: str
    tower: str
    modality: str
    spec: dict[str, Any]
    part: dict[str, Any]


def own_encoder(origin: str, kind: str) -> OwnEncoder | None:
    """The tower of a run or model of mmssl's that sees nothing but one modality of type `kind`; None: it is another
    library's. UserError where there is nothing of that name, or no one such tower in it."""
    where = f"model.towers: from '{origin}'"
    if origin.startswith((OPEN_CLIP, TIMM)):
        return None
    try:
        found = locate(origin)
    except UserError as error:
        raise UserError(f"model.towers: from: {error}") from error
    if found.kind in ("stock", "sentence-transformers"):
        return None
    if found.kind != "mmssl":
        raise UserError(f"{where}: found {WORDS[found.kind]}, expected a model of mmssl, or a stock encoder")
    config = read_json(found.place, CONFIG)
    towers, parts = _sections(config.get("towers")), _sections(config.get("modalities"))
    members = {name: spec.get("modalities") or [name] for name, spec in towers.items()}
    fit = [
        (tower, names[0])
        for tower, names in members.items()
        if len(names) == 1 and parts.get(names[0], {}).get("type", names[0]) == kind and names[0] in parts
    ]
    if len(fit) != 1:
        there = "; ".join(f"'{tower}' of {', '.join(names)}" for tower, names in members.items())
        raise UserError(f"{where}: found towers {there}, expected one that sees {kind}s and nothing else")
    tower, modality = fit[0]
    return OwnEncoder(found.place, tower, modality, towers[tower], parts[modality])


def _sections(value: object) -> dict[str, dict[str, Any]]:
    found = value if isinstance(value, Mapping) else {}
    return {str(key): dict(part) for key, part in found.items() if isinstance(part, Mapping)}


def plane(value: object) -> list[int] | None:
    """Rows and columns of a side, or of [slices, rows, columns]; None of what is neither."""
    sides = [value] if isinstance(value, int) else value
    if not isinstance(sides, Sequence) or isinstance(sides, str) or not sides:
        return None
    return [sides[len(sides) // 2], sides[-1]]
