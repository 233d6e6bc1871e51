"""A tower from what a `config.json` says of it: of mmssl's own, of the user's, or wrapped; of slices one in another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError, nearest
from ..modality import Modality, load_modality
from .conv_tower import ConvTower
from .message_tower import MessageTower
from .options import CONVOLUTIONS, MESSAGES, TowerConfig, own_trunk
from .own_tower import OwnTower, embeds
from .slice_tower import SLICES, SliceTower
from .tower import Tower

Parts = Mapping[str, Mapping[str, Any]]
"""Name -> its options, as `config.json` has them."""


def tower_config(spec: Mapping[str, Any]) -> TowerConfig:
    """A `TowerConfig` from what `config.json` holds: YAML's `from` is the field `from_`, `foreign` is no option."""
    fields = {("from_" if k == "from" else k): v for k, v in spec.items() if k != "foreign"}
    return TowerConfig(**fields)


def build_modality(name: str, modalities: Parts, place: str | None, width: int) -> Modality:
    """The modality of that name with random weights. UserError where there is none, or its type is not to be trusted.

    Args:
        name: its name.
        modalities: all that there are.
        place: the folder that names them, where one does.
        width: D of its tokens.
    """
    if name not in modalities:
        known = list(modalities)
        raise UserError(f"model.towers: unknown modality '{name}', expected one of {known}{nearest(name, known)}")
    options = dict(modalities[name])
    made: Modality = load_modality(options.pop("type", name), place).Modality(width, **options)
    return made


def build_tower(name: str, spec: Mapping[str, Any], modalities: Parts, place: str | None) -> Tower:
    """The tower of that name with random weights.

    Args:
        name: its name.
        spec: what `config.json` says of it.
        modalities: all of the model's.
        place: the folder that names them, where one does.
    """
    options, foreign = tower_config(spec), spec.get("foreign")
    embedded = foreign is None and options.trunk not in CONVOLUTIONS and embeds(options, place)
    width = options.width if embedded else 1  # a wrapped model, or one of convolutions, embeds by itself
    parts = {m: build_modality(m, modalities, place, width) for m in options.modalities or [name]}
    if foreign is None:
        if own_trunk(options.trunk):
            return OwnTower(options, parts, place)
        kinds = {**dict.fromkeys(MESSAGES, MessageTower), **dict.fromkeys(CONVOLUTIONS, ConvTower)}
        return kinds.get(options.trunk, Tower)(options, parts)
    if foreign.get("library") == SLICES:
        first = options.sole(parts)
        return SliceTower(options, parts, _encoder(foreign.get("config"), first, place))
    from .wrapping import build_foreign

    return build_foreign(options, parts, foreign)


def _encoder(config: object, name: str, place: str | None) -> Tower:
    """The tower of a slice, whose modality is called as that of the whole is, so that messages name it."""
    said = config if isinstance(config, Mapping) else {}
    part, spec = said.get("modality"), said.get("tower")
    if not isinstance(part, Mapping) or not isinstance(spec, Mapping) or not isinstance(part.get("type"), str):
        raise UserError(f"model.towers: found slices of {config!r:.60}, expected a modality and a tower")
    return build_tower(name, {**spec, "modalities": [name]}, {name: part}, place)
