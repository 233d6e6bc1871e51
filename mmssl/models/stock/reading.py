"""Start from a stock checkpoint: `model.towers.X.from: PATH_OR_ID`, converted exactly into mmssl's own tower.

A converted tower drops what is masked, as masked autoencoding and JEPA need; a wrapped one (`mmssl.models.foreign`)
must see all its patches. Whole encoders of the formats that can be read (ViT, ViT-MAE, I-JEPA, DINOv2, VideoMAE,
V-JEPA 2, AST, timm) are converted; everything else is wrapped, also one half of a pair (CLIP, SigLIP), whose projection
belongs to its embedding. `convert: true` converts the image encoder of such a pair too, without the projection, and
refuses what it cannot convert; `convert: false` wraps in any case.

Continuing keeps preprocessing: size, patch, channels, mean and deviation are the checkpoint's, unless the recipe says
otherwise. Positions are interpolated to another size as the stock class does it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError, one_line
from ...options.schema import Faults
from ...options.wording import show
from ..foreign import OPEN_CLIP, TIMM
from ..locating import gated
from ..options import YOURS
from ..waves import hop_of, takes_waves
from .contract import Options, Reader
from .formats import format_names, load_format
from .images import RESAMPLE
from .slices import own_encoder, plane, slice_kind

if TYPE_CHECKING:
    from transformers import PretrainedConfig


PREPROCESSING = {
    "image": ("preprocessor_config.json", "processor_config.json"),
    "video": ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json"),
    "audio": ("preprocessor_config.json", "processor_config.json"),
}
"""Where the processor of a modality is written; the first that is there holds."""
WITHIN = {"image": "image_processor", "video": "video_processor", "audio": "feature_extractor"}
"""Its name in the file of a processor of several modalities."""
MARGINS = {"VJEPA2VideoProcessor": 256 / 224}
"""Processors that resize frames so many times further than the crop, whatever their file says."""
READ = {number: name for name, number in RESAMPLE.items()}


def stock_config(origin: str) -> PretrainedConfig | None:
    """The stock configuration of a checkpoint, None when it cannot be read (whoever loads it says why).

    UserError, with what to do, where its repository is gated.
    """
    if origin.startswith((OPEN_CLIP, TIMM)):
        return None
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(origin, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        closed = gated(error, origin)
        if closed:
            raise UserError(f"model.towers: from '{origin}': {closed}") from error
        return None


def converter(origin: str, config: PretrainedConfig | None, convert: bool | None, kind: str) -> Reader | None:
    """The reader of the format that takes this checkpoint into a tower of modality type `kind`; None: it is wrapped.

    Args:
        config: what `stock_config` read of it.

    Raises:
        UserError: when `convert` is true and there is none.
    """
    if convert is False:
        return None
    found = None if origin.startswith(OPEN_CLIP) else _reader(origin, config, kind)
    if found is not None and (convert or not found.pair):
        return found
    if convert:
        readable = ", ".join(name for name in format_names() if load_format(name).reads(kind))
        what = getattr(config, "model_type", "no model that transformers knows")
        what = "no VisionTransformer with weights" if origin.startswith(TIMM) else what
        raise UserError(
            f"model.towers: from '{origin}': found {what}, convert: true takes a tower of {kind} from "
            f"{readable or 'no format: it can be wrapped only'}"
        )
    return None


def _reader(origin: str, config: PretrainedConfig | None, kind: str) -> Reader | None:
    described: Mapping[str, object] = {"model_type": "timm", "origin": origin} if origin.startswith(TIMM) else {}
    if config is not None:
        described = config.to_dict()
    if not described:
        return None
    for name in format_names():
        chosen = load_format(name)
        if chosen.reads(kind) and chosen.reader is not None and chosen.reader.reads(described):
            return chosen.reader
    return None


def architecture(reader: Reader, origin: str, config: PretrainedConfig | None) -> Options:
    """{"tower": options of `TowerConfig`, "modality": options of the modality} that the checkpoint has.

    `config` is what `stock_config` read of it.
    """
    found = reader.read(origin if origin.startswith(TIMM) else config)
    if found["tower"].get("activation", "gelu") is None:
        raise UserError(
            f"model.towers: from '{origin}': its activation "
            f"{getattr(config, 'hidden_act', None)!r} is none of mmssl's; convert: false wraps the model"
        )
    return found


# ----------------------------------------------------------------------------------------------------- preprocessing


def apply_origins(data: object, faults: Faults) -> None:
    """Fill, in a recipe's plain data, what a modality does not say from the checkpoint that its tower starts from."""
    model = data.get("model") if isinstance(data, dict) else None
    towers = model.get("towers") if isinstance(model, dict) else None
    modalities = data.get("modalities") if isinstance(data, dict) else None
    if not isinstance(model, dict) or not isinstance(towers, dict) or not isinstance(modalities, dict):
        return
    started = model.get("from")
    for tower, spec in towers.items():
        origin = spec.get("from") if isinstance(spec, dict) else None
        if not isinstance(origin, str) or origin == YOURS:
            continue
        names = spec.get("modalities") or [tower]
        for name in names if isinstance(names, list) else []:
            options = modalities.get(name)
            if not isinstance(options, dict):
                continue
            kind, where = str(options.get("type", name)), f"modalities.{name}"
            pictures = slice_kind(kind)
            if pictures is None:
                _fill(origin, spec, options, kind, where, faults)
            elif not started:  # else all is known by the model that is gone on from
                _fill_slices(origin, spec, options, pictures, where, faults)


def _fill_slices(
    origin: str, spec: dict[str, Any], options: dict[str, Any], kind: str, where: str, faults: Faults
) -> None:
    """Size and patch of a modality whose slices go through an encoder of `kind`, where they are not said."""
    size = plane(options["size"]) if "size" in options else None
    try:
        own = own_encoder(origin, kind)
    except UserError as error:
        faults.append(str(error))
        options.setdefault("patch", 1)  # which goes into any size: there is one fault, not two
        return
    pictures: dict[str, Any] = {} if size is None else {"size": size}
    if own is None:
        _fill(origin, spec, pictures, kind, where, faults)
    else:
        pictures = {key: own.part.get(key) for key in ("size", "patch")} | pictures
    size, patch = plane(pictures.get("size")), plane(pictures.get("patch"))
    if size is not None:
        options.setdefault("size", [size[0], *size])
    said = options.get("patch")
    if patch is not None:
        options.setdefault("patch", [1, *patch])
    if said is None and patch is None or said is not None and said != [1, *(patch or plane(said) or [])]:
        wanted = str([1, *patch]) if patch else "[1, rows, columns]"
        faults.append(f"{where}.patch: found {said}, expected {wanted}: '{origin}' sees slice by slice")
        options["patch"] = [1, *(patch or [1, 1])]  # what follows from it is no fault of its own


def _fill(origin: str, spec: dict[str, Any], options: dict[str, Any], kind: str, where: str, faults: Faults) -> None:
    if origin.startswith(OPEN_CLIP):
        return
    try:
        config = stock_config(origin)
        chosen = converter(origin, config, spec.get("convert"), kind)
    except UserError as error:
        faults.append(str(error))
        return
    fixed: set[str] = set()
    theirs: dict[str, object] = {}
    if chosen is not None:
        try:
            theirs = architecture(chosen, origin, config)["modality"]
        except UserError as error:
            faults.append(str(error))
            return
        for key, value in theirs.items():
            if key in chosen.free:
                continue  # positions are interpolated, or defined everywhere
            if key in options and _same(options[key]) != _same(value):
                faults.append(f"{where}.{key}: found {show(options[key])}, but '{origin}' has {value}")
    try:
        if chosen is None:
            theirs = _wrapped_options(origin, config, kind)
            fixed |= {"features", "patch", "rate", "normalise"} if kind == "audio" else set()
        if config is not None and kind in PREPROCESSING:
            theirs = {**theirs, **_preprocessing(origin, kind, chosen)}
    except UserError as error:
        faults.append(str(error))
    for key, value in theirs.items():
        if key in fixed and _same(options.get(key, value)) != _same(value):
            faults.append(f"{where}.{key}: found {show(options[key])}, but '{origin}' has {value}")
            options[key] = value  # what follows from it is no fault of its own
        options.setdefault(key, value)


def _same(value: object) -> object:
    """One number for a square, so that 16 and [16, 16] compare equal."""
    return value[0] if isinstance(value, list) and value and len(set(value)) == 1 else value


def _wrapped_options(origin: str, config: object, kind: str) -> dict[str, object]:
    """What a wrapped model takes; its own check refuses what the recipe sets otherwise."""
    if origin.startswith(TIMM) and kind == "image":
        from ..timm_tower import preprocessing

        return preprocessing(origin)
    if config is None:
        return {}
    if kind == "text":
        has_tokenizer = any((Path(origin) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
        return {"tokenizer": origin, "special_tokens": True} if has_tokenizer or not Path(origin).is_dir() else {}
    if kind == "audio" and takes_waves(config):
        return {"features": "waveform", "patch": hop_of(config)}
    if kind != "image":
        return {}
    config = getattr(config, "vision_config", config)
    found = {"size": "image_size", "patch": "patch_size", "channels": "num_channels"}
    values = {key: getattr(config, name, None) for key, name in found.items()}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if v is not None}


def _preprocessing(origin: str, kind: str, chosen: Reader | None) -> dict[str, object]:
    """Mean, deviation and way of resizing from a checkpoint's processor; nothing where it has none.
    UserError when the processor's file is damaged."""
    from transformers.utils import cached_file

    found: Any = {}
    for name in PREPROCESSING[kind]:
        try:
            path = cached_file(
                origin, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
            )
            if not path:
                continue
            found = json.loads(Path(path).read_text())
            if not isinstance(found, dict):
                raise ValueError(f"found {type(found).__name__}, expected an object")
            found = found.get(WITHIN[kind], {}) if name == "processor_config.json" else found
            break
        except (OSError, ValueError) as error:  # going on with other statistics would spoil what the tower has learned
            reason = one_line(error)
            raise UserError(f"model.towers: from '{origin}': its {name} cannot be read ({reason})") from error
    if kind == "audio" and chosen is None:
        rate = {"rate": int(found["sampling_rate"])} if "sampling_rate" in found else {}
        own = found.get("do_normalize", True)
        return rate | ({"normalise": "sound"} if own else {"mean": 0.0, "std": 1.0}) if found else {}
    if kind == "audio":
        return chosen.preprocessing(found) if chosen is not None and chosen.preprocessing and found else {}
    out: dict[str, Any] = {}
    if found.get("do_normalize", True):
        for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
            if isinstance(found.get(theirs), list):
                out[ours] = [float(x) for x in found[theirs]]
    else:
        out |= {"mean": [0.0], "std": [1.0]}
    size = found.get("size")
    whole = isinstance(size, dict) and "height" in size and not found.get("do_center_crop")
    out["resize"] = "squash" if whole else "crop"
    if kind == "video" and found.get("video_processor_type") in MARGINS:
        out["margin"] = MARGINS[found["video_processor_type"]]
    if found.get("resample") in READ:
        out["interpolation"] = READ[found["resample"]]
    return out
