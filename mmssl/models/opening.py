"""Opening a MODEL of any kind: what every command calls. See `mmssl.models.locating` for what a MODEL is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..boundary import reading_of
from ..errors import UserError
from ..modality import load_modality
from .adapter_files import AdapterSpec, absolute, base_of, read_spec
from .building import tower_config
from .configuration_mmssl import MMSSLConfig
from .foreign import split_origin
from .locating import CONFIG, PROCESSOR, WORDS, Located, locate, read_json
from .modeling_mmssl import MMSSLModel
from .options import own_trunk
from .own_tower import trunk_class
from .privacy import public
from .processing_mmssl import MMSSLProcessor, saved_modalities
from .saving import load_model, no_progress_bars

if TYPE_CHECKING:
    from peft import PeftModel

FREE = ("adapter", "frozen", "dropout", "drop_path")
"""Keys of a tower that say how it is trained, not what it is."""


def open_model(model: str | Path | Located, base: str | None = None) -> tuple[MMSSLModel, MMSSLProcessor]:
    """Load a MODEL, of whichever kind: one of mmssl's, an adapter (merged into its base), or a stock class's.

    Args:
        model: see `mmssl.models.locating.locate`.
        base: the model that an adapter belongs on, where it is not at the place that the adapter remembers.

    Returns:
        The model, in evaluation mode, and its processor.

    Raises:
        UserError: in one line, when it is not there, damaged, of no kind that can be opened, or needs no base.
    """
    found = model if isinstance(model, Located) else locate(model)
    with reading_of(f"{found.name}: it cannot be opened"):
        return _opened(found, base)


def _opened(found: Located, base: str | None) -> tuple[MMSSLModel, MMSSLProcessor]:
    if found.kind in ("adapter", "peft"):
        with no_progress_bars():
            handle = load_adapter(found, base)
            model, processor = merged(handle, found.place), MMSSLProcessor.from_pretrained(found.folder())
            model.adapter_from = str(found.folder())
            return model, processor
    if base is not None:
        raise UserError(f"--base {base}: {found.name} is {WORDS[found.kind]}, only an adapter has a base")
    if found.kind == "mmssl":
        return load_model(found.place)
    from .stock.opening import open_stock

    return open_stock(found.place)


def saved_parts(model: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what `config.json` says, what `processor_config.json` says) of a MODEL: its architecture and its preprocessing.

    Of an adapter: those of its base, which it remembers. Of a stock folder: those of the model of mmssl that it becomes
    when it is opened. UserError, in one line, where they cannot be read.
    """
    found = locate(model)
    if found.kind in ("stock", "sentence-transformers"):
        opened, processor = open_model(found)
        return opened.config.to_dict(), processor.to_dict(public=False)
    if found.kind == "mmssl":
        config = read_json(found.place, CONFIG)
    else:
        config = adapter_spec(found)[1]["architecture"]
    processors = read_json(found.place, PROCESSOR)
    for part in saved_modalities(processors, found.name).values():
        load_modality(part["type"], found.place)  # a recipe may be made of it, in which a type would be the user's word
    towers = config.get("towers")
    if not isinstance(towers, dict) or not all(isinstance(tower, dict) for tower in towers.values()):
        raise UserError(f"{found.name}: its {CONFIG} lacks the towers that mmssl writes there")
    for tower in towers.values():
        if own_trunk(tower.get("trunk")):
            trunk_class(tower["trunk"], found.place)
    return config, processors


def adapter_spec(found: Located) -> tuple[Path, AdapterSpec]:
    """(folder, what `mmssl_adapter.json` says) of an adapter. UserError when it is something else, or not mmssl's."""
    if found.kind not in ("adapter", "peft"):
        raise UserError(f"{found.name}: found {WORDS[found.kind]}, expected an adapter that mmssl trained")
    folder = found.folder()
    return folder, read_spec(folder)


def load_base(folder: Path, spec: AdapterSpec, base: str | None) -> MMSSLModel:
    """The model that an adapter belongs on: `base` if given, else the one it remembers. UserError when there is none,
    or it is not the one."""
    if base is None and spec["base"] is not None and spec["base_path"] is not None:
        base = absolute(spec["base_path"], folder)
        if base.startswith(".") and not Path(base).exists():
            there = os.path.normpath(folder / base)
            raise UserError(f"{folder}: its base model is not at {there}; name it with --base MODEL")
    model = open_model(base)[0] if base is not None else _rebuilt(folder, spec)
    theirs = base_of(model, None)
    wanted = spec["architecture"]
    for key in ("modalities", "towers", "projection", "projection_hidden", "projection_standard"):
        mine, other = (_lasting(a.get(key)) for a in (public(theirs.architecture), wanted))
        if mine != other:
            where = _first_difference(mine, other, key)
            raise UserError(f"{folder}: this adapter belongs on another base than {base}: {where}")
    # the architecture fits many models, the change that was learned only this one
    if theirs.weights != spec["weights_sha256"]:
        raise UserError(
            f"{folder}: this adapter was trained on other weights than those of {base or 'its pretrained towers'}"
            + (f" (it remembers '{spec['base']}')" if spec["base"] else "")
        )
    return model


def _lasting(parts: object) -> Any:
    """What of an architecture says which weights there are: not where they came from, nor how they were trained."""
    if not isinstance(parts, dict):
        return parts
    passing = (*FREE, "from", "convert")
    return {n: {k: v for k, v in p.items() if k not in passing} if isinstance(p, dict) else p for n, p in parts.items()}


def _rebuilt(folder: Path, spec: AdapterSpec) -> MMSSLModel:
    """The base of an adapter on pretrained towers: built again, their weights read from where they came from."""
    if not spec["origins"]:
        raise UserError(f"{folder}: the adapter does not say what it belongs on; name it with --base MODEL")
    from .stock.towers import load_origin

    config = MMSSLConfig(**spec["architecture"])
    processor = MMSSLProcessor.from_pretrained(folder)
    assert config.towers is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.initializer_seed)
        model = MMSSLModel(config)
        for tower, origin in spec["origins"].items():
            found = absolute(origin, folder)
            if found == origin and split_origin(origin)[1].startswith("."):
                raise UserError(f"{folder}: the pretrained model of its tower '{tower}' is not at {folder / origin}")
            options = tower_config(config.towers[tower])
            options.from_ = found
            load_origin(model, processor, tower, options)
    return model.eval()


def _first_difference(mine: object, other: object, where: str) -> str:
    if isinstance(mine, dict) and isinstance(other, dict):
        for key in {**mine, **other}:
            if mine.get(key) != other.get(key):
                return _first_difference(mine.get(key), other.get(key), f"{where}.{key}")
    return f"{where} is {mine!r}, the adapter was made for {other!r}"


def load_adapter(model: str | Path | Located, base: str | None = None) -> PeftModel:
    """An adapter on its base, as PEFT loads it. UserError, in one line, for whatever does not fit."""
    from peft import PeftModel

    folder, spec = adapter_spec(model if isinstance(model, Located) else locate(model))
    opened = load_base(folder, spec, base)
    with reading_of(f"{folder}: the adapter cannot be loaded"):
        return PeftModel.from_pretrained(opened, str(folder))


def merged(handle: PeftModel, folder: str | Path) -> MMSSLModel:
    """The model with the adapter's change added to its weights: an ordinary `MMSSLModel`."""
    try:
        model: MMSSLModel = handle.merge_and_unload()
    except (NotImplementedError, AttributeError) as error:
        kind = str(getattr(handle.peft_config["default"].peft_type, "value", "unknown")).lower()
        raise UserError(f"{folder}: an adapter of type '{kind}' cannot be merged; load it with PEFT") from error
    return model.eval()
