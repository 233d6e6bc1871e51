"""A recipe's towers that start from a checkpoint: converted or wrapped (see `mmssl.models.stock.reading`), or taken
slice by slice (see `mmssl.models.slice_tower`)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...modality import Preprocessor, load_modality
from ...options import changed
from ...options.schema import build
from ..configuration_mmssl import MMSSLConfig
from ..foreign import load_foreign, public_origin
from ..modeling_mmssl import MMSSLModel, tower_spec
from ..options import TowerConfig
from ..processing_mmssl import MMSSLProcessor
from ..saving import load_model
from ..slice_tower import SLICES, SliceTower
from ..wrapping import describe_foreign
from .exportable import Branch, Exportable, refuse
from .formats import load_format
from .reading import apply_origins, architecture, converter, stock_config
from .slices import own_encoder, slice_kind


def tower_specs(
    towers: Mapping[str, TowerConfig], modalities: Mapping[str, Mapping[str, Any]], wrapped: Mapping[str, object]
) -> dict[str, Any]:
    """What `MMSSLConfig.towers` holds.

    Args:
        towers: of the recipe.
        modalities: what `MMSSLConfig.modalities` holds.
        wrapped: tower -> description of the foreign model that it wraps in the mmssl model that is gone on from.
    """
    out = {}
    for name, tower in towers.items():
        out[name] = tower_spec(tower)
        if name in wrapped:
            out[name]["foreign"] = wrapped[name]
        if tower.from_ is None or name in wrapped:
            continue
        out[name]["from"] = public_origin(tower.from_)
        part = modalities[_modality(name, tower)]
        pictures = slice_kind(part["type"])
        if pictures is not None:
            encoder = _encoder_of_slices(tower, part, pictures)
            out[name]["foreign"] = {"library": SLICES, "config": {"modality": encoder[0], "tower": encoder[1]}}
            continue
        if changed(tower, "slice_blocks"):
            raise UserError(
                f"model.towers.{name}.slice_blocks: found {tower.slice_blocks}, but a {part['type']} has no "
                "slices; leave it out"
            )
        config = stock_config(tower.from_)
        chosen = converter(tower.from_, config, tower.convert, part["type"])
        if chosen is None:
            out[name]["foreign"] = describe_foreign(tower.from_)
        else:
            out[name] |= architecture(chosen, tower.from_, config)["tower"]
    return out


def _encoder_of_slices(tower: TowerConfig, part: Mapping[str, Any], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(modality, tower) as `config.json` has them, of what sees each slice of a modality with these options."""
    assert tower.from_ is not None
    own = own_encoder(tower.from_, kind)
    if own is None:
        reader = _pictures(tower, part, kind)
        pictures = {"type": kind, **reader.sizes()}
        alone = TowerConfig(from_=tower.from_, convert=tower.convert)
        spec = tower_specs({kind: alone}, {kind: pictures}, {})[kind]
    else:
        pictures, spec = {**own.part, "type": kind, "size": list(part["size"][-2:])}, own.spec
    # nothing is pooled of a slice, and what it came from is past: it is the whole that is frozen or trained
    past = {"from": None, "convert": None, "frozen": False, "pooling": "mean", "readout": None, "readout_layers": 1}
    return pictures, {**spec, **past}


def _pictures(tower: TowerConfig, part: Mapping[str, Any], kind: str) -> Preprocessor[Any]:
    """What prepares pictures for a stock encoder, of the size of such slices; slices have been normalised already."""
    options: dict[str, Any] = {"size": list(part["size"][-2:])}
    spec = {"from": tower.from_, "convert": tower.convert}
    faults: list[str] = []
    apply_origins({"modalities": {kind: options}, "model": {"towers": {kind: spec}}}, faults)
    usual = {"patch": list(part["patch"][-2:]), "channels": 3, "mean": [0.0], "std": [1.0]}
    package = load_modality(kind)
    config = build(package.Config, usual | options, "model.towers: slices", faults)
    if faults:
        raise UserError("\n".join(faults))
    found: Preprocessor[Any] = package.Preprocessor(config)
    return found


def load_origin(model: MMSSLModel, processor: MMSSLProcessor, name: str, tower: TowerConfig) -> None:
    """Fill a tower that has a `from` with the weights of its checkpoint."""
    assert tower.from_ is not None
    modality = _modality(name, tower)
    kind = processor.types[modality]
    pictures = slice_kind(kind)
    if pictures is not None:
        _load_slices(model, name, modality, tower, pictures)
        return
    chosen = converter(tower.from_, stock_config(tower.from_), tower.convert, kind)
    if chosen is None:
        load_foreign(model.towers[name], tower.from_)
        return
    part = Branch(model, name, modality, kind, processor.preprocessors[modality])
    chosen.load(part, tower.from_)


def _load_slices(model: MMSSLModel, name: str, modality: str, tower: TowerConfig, kind: str) -> None:
    """Fill what sees the slices. UserError where its weights are of another size."""
    assert tower.from_ is not None and model.config.towers is not None and model.config.modalities is not None
    own = own_encoder(tower.from_, kind)
    if own is not None:
        source, within = load_model(own.place)[0].tower(own.tower), own.modality
    else:
        said = model.config.towers[name]["foreign"]["config"]
        alone, within = TowerConfig(from_=tower.from_, convert=tower.convert), kind
        whole = MMSSLModel(MMSSLConfig(modalities={kind: said["modality"]}, towers={kind: said["tower"]}))
        reader = _pictures(tower, model.config.modalities[modality], kind)
        load_origin(whole, MMSSLProcessor({kind: reader}, {kind: kind}), kind, alone)
        source = whole.tower(kind)
    slices = model.tower(name)
    assert isinstance(slices, SliceTower)
    mine = slices.encoder.state_dict()
    theirs = {_renamed(key, within, modality): tensor for key, tensor in source.state_dict().items()}
    odd = sorted(key for key in mine if key not in theirs or theirs[key].shape != mine[key].shape)
    if odd:
        there = tuple(theirs[odd[0]].shape) if odd[0] in theirs else None
        raise UserError(
            f"model.towers.{name}: from '{tower.from_}': {len(odd)} tensors do not fit slices of "
            f"{' x '.join(map(str, model.config.modalities[modality]['size'][-2:]))}, the first is '{odd[0]}' ({there} "
            f"there, {tuple(mine[odd[0]].shape)} here)"
        )
    slices.encoder.load_state_dict({key: theirs[key] for key in mine})


def _renamed(key: str, theirs: str, mine: str) -> str:
    """A parameter's name in a tower whose modality is called otherwise."""
    part, _, rest = key.partition(".")
    inside = part in ("modalities", "relations", "rotary") and rest.startswith(f"{theirs}.")
    return f"{part}.{mine}{rest.removeprefix(theirs)}" if inside else key


def _modality(name: str, tower: TowerConfig) -> str:
    names = tower.modalities or [name]
    if len(names) > 1:
        raise UserError(f"model.towers: a pretrained tower has one modality, found {', '.join(names)}")
    return names[0]


def refuse_incompatible(model: MMSSLModel, processor: MMSSLProcessor, name: str) -> None:
    """UserError when the model, now that data and checkpoints are known, is not what `compatible_with` promises."""
    with tempfile.TemporaryDirectory() as scratch:
        refuse(Exportable(model, processor, Path(scratch), "this recipe"), name, load_format(name))
