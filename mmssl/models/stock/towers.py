"""A recipe's towers that start from a checkpoint: converted or wrapped (see `mmssl.models.stock.reading`)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..foreign import load_foreign, public_origin
from ..modeling_mmssl import MMSSLModel, tower_spec
from ..options import TowerConfig
from ..processing_mmssl import MMSSLProcessor
from ..wrapping import describe_foreign
from .exportable import Branch, Exportable, refuse
from .formats import load_format
from .reading import architecture, converter, stock_config


def tower_specs(
    towers: Mapping[str, TowerConfig], types: Mapping[str, str], wrapped: Mapping[str, object]
) -> dict[str, Any]:
    """What `MMSSLConfig.towers` holds. types: modality -> its type; wrapped: tower -> description of the foreign model
    that it wraps in the mmssl model that is gone on from."""
    out = {}
    for name, tower in towers.items():
        out[name] = tower_spec(tower)
        if name in wrapped:
            out[name]["foreign"] = wrapped[name]
        if tower.from_ is None or name in wrapped:
            continue
        out[name]["from"] = public_origin(tower.from_)
        config = stock_config(tower.from_)
        chosen = converter(tower.from_, config, tower.convert, types[_modality(name, tower)])
        if chosen is None:
            out[name]["foreign"] = describe_foreign(tower.from_)
        else:
            out[name] |= architecture(chosen, tower.from_, config)["tower"]
    return out


def load_origin(model: MMSSLModel, processor: MMSSLProcessor, name: str, tower: TowerConfig) -> None:
    """Fill a tower that has a `from` with the weights of its checkpoint."""
    assert tower.from_ is not None
    modality = _modality(name, tower)
    chosen = converter(tower.from_, stock_config(tower.from_), tower.convert, processor.types[modality])
    if chosen is None:
        load_foreign(model.towers[name], tower.from_)
        return
    part = Branch(model, name, modality, processor.types[modality], processor.preprocessors[modality])
    chosen.load(part, tower.from_)


def _modality(name: str, tower: TowerConfig) -> str:
    names = tower.modalities or [name]
    if len(names) > 1:
        raise UserError(f"model.towers: a pretrained tower has one modality, found {', '.join(names)}")
    return names[0]


def refuse_incompatible(model: MMSSLModel, processor: MMSSLProcessor, name: str) -> None:
    """UserError when the model, now that data and checkpoints are known, is not what `compatible_with` promises."""
    with tempfile.TemporaryDirectory() as scratch:
        refuse(Exportable(model, processor, Path(scratch), "this recipe"), name, load_format(name))
