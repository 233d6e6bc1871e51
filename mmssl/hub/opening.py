"""Opening a MODEL of any kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from ..errors import UserError
from ..models.configuration_mmssl import MMSSLConfig
from ..models.foreign import OPEN_CLIP
from ..models.locating import FREE
from ..models.modeling_mmssl import MMSSLModel, tower_config
from ..models.privacy import public
from ..models.processing_mmssl import MMSSLProcessor
from ..models.saving import load_model, no_progress_bars
from .adapters import PEFT_CONFIG, _absolute, adapter_folder, base_of, read_spec

if TYPE_CHECKING:
    from peft import PeftModel


def load_base(folder: Path, spec: dict[str, Any], base: str | None) -> MMSSLModel:
    """The model that an adapter belongs on: `base` if given, else the one it remembers. UserError when there is none,
    or it is not the one."""
    if base is None and spec["base"] is not None and spec["base_path"] is not None:
        base = _absolute(spec["base_path"], folder)
        if base.startswith(".") and not Path(base).exists():
            there = os.path.normpath(folder / base)
            raise UserError(f"{folder}: its base model is not at {there}; name it with --base MODEL")
    model = load_any(base)[0] if base is not None else _rebuilt(folder, spec)
    theirs = base_of(model, None)
    wanted = spec["architecture"]
    for key in ("modalities", "towers", "projection"):
        mine, other = (_lasting(a.get(key)) for a in (public(theirs.architecture), wanted))
        if mine != other:
            where = _first_difference(mine, other, key)
            raise UserError(f"{folder}: this adapter belongs on another base than {base}: {where}")
    if theirs.fingerprint != spec["fingerprint"]:
        raise UserError(
            f"{folder}: this adapter was trained on other weights than those of {base or 'its pretrained towers'}"
            + (f" (it remembers '{spec['base']}')" if spec["base"] else "")
        )
    return model


def _lasting(parts: Any) -> Any:
    """What of an architecture says which weights there are: not where they came from, nor how they were trained."""
    if not isinstance(parts, dict):
        return parts
    passing = (*FREE, "from", "convert")
    return {n: {k: v for k, v in p.items() if k not in passing} if isinstance(p, dict) else p for n, p in parts.items()}


def _rebuilt(folder: Path, spec: dict[str, Any]) -> MMSSLModel:
    """The base of an adapter on pretrained towers: built again, their weights read from where they came from."""
    if not spec["origins"]:
        raise UserError(f"{folder}: the adapter does not say what it belongs on; name it with --base MODEL")
    from ..models.stock.towers import load_origin

    config = MMSSLConfig(**spec["architecture"])
    processor = MMSSLProcessor.from_pretrained(folder)
    assert config.towers is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.initializer_seed)
        model = MMSSLModel(config)
        for tower, origin in spec["origins"].items():
            found = _absolute(origin, folder)
            if found == origin and origin.removeprefix(OPEN_CLIP).startswith("."):
                raise UserError(f"{folder}: the pretrained model of its tower '{tower}' is not at {folder / origin}")
            options = tower_config(config.towers[tower])
            options.from_ = found
            load_origin(model, processor, tower, options)
    return model.eval()


def _first_difference(mine: Any, other: Any, where: str) -> str:
    if isinstance(mine, dict) and isinstance(other, dict):
        for key in {**mine, **other}:
            if mine.get(key) != other.get(key):
                return _first_difference(mine.get(key), other.get(key), f"{where}.{key}")
    return f"{where} is {mine!r}, the adapter was made for {other!r}"


def load_adapter(path: str | Path, base: str | None = None) -> PeftModel:
    """The adapter on its base, as PEFT loads it. UserError, in one line, for whatever does not fit."""
    from peft import PeftModel

    folder = adapter_folder(path)
    if folder is None:
        raise UserError(f"{path}: no {PEFT_CONFIG}, expected the folder of an adapter")
    model = load_base(folder, read_spec(folder), base)
    try:
        return PeftModel.from_pretrained(model, str(folder))
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{folder}: the adapter cannot be loaded ({type(error).__name__}: {line})") from error


def merged(handle: PeftModel, folder: str | Path) -> MMSSLModel:
    """The model with the adapter's change added to its weights: an ordinary `MMSSLModel`."""
    try:
        model: MMSSLModel = handle.merge_and_unload()
    except (NotImplementedError, AttributeError) as error:
        kind = str(getattr(handle.peft_config["default"].peft_type, "value", "unknown")).lower()
        raise UserError(f"{folder}: an adapter of type '{kind}' cannot be merged; load it with PEFT") from error
    return model.eval()


def load_any(path: str | Path, base: str | None = None) -> tuple[MMSSLModel, MMSSLProcessor]:
    """Model and processor of a model folder, a run, a Hub id, or an adapter of any of these (merged into its base)."""
    folder = adapter_folder(path)
    if folder is None:
        if base is not None:
            raise UserError(f"--base {base}: {path} is no adapter, it needs no base")
        inner = Path(path) / "model"  # the folder of a run
        return load_model(inner if (inner / "config.json").is_file() else path)
    with no_progress_bars():
        model = merged(load_adapter(folder, base), folder)
        return model, MMSSLProcessor.from_pretrained(folder)
