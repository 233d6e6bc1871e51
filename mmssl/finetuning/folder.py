"""Adapter folders: what PEFT writes, the processor, and `mmssl_adapter.json`, which says what it belongs on.

`PeftModel.from_pretrained(AutoModel.from_pretrained(BASE), FOLDER)` loads it without any of mmssl's files. With them
an adapter on other weights than those it was trained on is refused: it would load, and give nonsense. Only safetensors
are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from ..errors import UserError
from ..models.configuration_mmssl import MMSSLConfig
from ..models.foreign import OPEN_CLIP, public_origin
from ..models.modeling_mmssl import MMSSLModel, tower_config
from ..models.processing_mmssl import MMSSLProcessor
from ..models.saving import load_model, no_progress_bars
from ..origin import FREE
from ..privacy import public

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_FILE = "mmssl_adapter.json"
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass
class Base:
    """What an adapter belongs on.

    name: as the user called it (a folder or a Hub id), None for a model that was only ever built from pretrained
    towers. origins: tower -> where such a tower came from. fingerprint: of the weights under the adapter.
    architecture: modalities, towers, projection and seed, as in `config.json`.
    """

    name: str | None
    fingerprint: str
    architecture: dict[str, Any]
    origins: dict[str, str] = field(default_factory=dict)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a model's tensors: the same wherever it was saved."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def base_of(model: MMSSLModel, name: str | None, origins: dict[str, str] | None = None) -> Base:
    """Take this down before the adapter is put in."""
    keys = ("modalities", "towers", "projection", "initializer_seed")
    # through JSON: what is read back must compare equal
    architecture = json.loads(json.dumps({key: getattr(model.config, key) for key in keys}))
    return Base(name, fingerprint(model), architecture, dict(origins or {}))


def write_adapter(handle: PeftModel, base: Base, processor: MMSSLProcessor, folder: Path, final: Path) -> None:
    """Write everything into `folder`, which will be called `final` (paths to the base are relative to that)."""
    first = next(iter(base.origins.values()), None) if base.name is None else called(base.name)
    name = None if first is None else public_origin(first)
    handle.peft_config["default"].base_model_name_or_path = name
    handle.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template; ours is written by the caller
    processor.save_pretrained(folder)
    spec = {
        "base": name,
        "base_path": None if base.name is None else _relative(base.name, final),
        "fingerprint": base.fingerprint,
        "architecture": public(base.architecture),
        "origins": {tower: _relative(origin, final) for tower, origin in base.origins.items()},
    }
    (folder / ADAPTER_FILE).write_text(json.dumps(spec, indent=2) + "\n")


def called(name: str) -> str:
    """A run's name rather than that of the `model/` in it."""
    path = Path(name)
    return str(path.parent) if path.name == "model" and path.is_dir() and path.parent.name else name


def _relative(name: str, folder: Path) -> str:
    """A folder relative to the adapter's, a Hub id as it is."""
    prefix = OPEN_CLIP if name.startswith(OPEN_CLIP) else ""
    path = name.removeprefix(prefix)
    return prefix + os.path.relpath(path, folder) if Path(path).exists() else name


def _absolute(name: str, folder: Path) -> str:
    prefix = OPEN_CLIP if name.startswith(OPEN_CLIP) else ""
    path = folder / name.removeprefix(prefix)
    return prefix + os.path.normpath(path) if path.exists() else name


# ------------------------------------------------------------------------------------------------------------ read


def adapter_folder(path: str | Path) -> Path | None:
    """The folder of an adapter: `path` itself, its `model/` (a run's), or a Hub repository's snapshot; else None."""
    for folder in (Path(path), Path(path) / "model"):
        if (folder / PEFT_CONFIG).is_file() or (folder / ADAPTER_FILE).is_file():
            return folder
    if Path(path).exists() or not isinstance(path, str):
        return None
    return snapshot(path, ADAPTER_FILE)


def snapshot(repo: str, marker: str) -> Path | None:
    """A Hub repository that holds the file `marker`, fetched; None where it does not, or cannot be reached."""
    from huggingface_hub import snapshot_download
    from transformers.utils import cached_file

    try:
        if cached_file(repo, marker, _raise_exceptions_for_missing_entries=False) is None:
            return None
        return Path(snapshot_download(repo, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except (OSError, ValueError):
        return None  # nothing of ours: whoever asked goes on to load a model of that name, which says what is wrong


def read_spec(folder: Path) -> dict[str, Any]:
    """`mmssl_adapter.json`. UserError when the folder is an adapter of another library, damaged or incomplete."""
    if not (folder / ADAPTER_FILE).is_file():
        raise UserError(f"{folder}: an adapter without {ADAPTER_FILE}, so not one that mmssl wrote; load it with PEFT")
    try:
        spec = json.loads((folder / ADAPTER_FILE).read_text())
        if not {"base", "base_path", "fingerprint", "architecture", "origins"} <= set(spec):
            raise ValueError("keys are missing")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: {ADAPTER_FILE} is damaged ({error})") from error
    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: the adapter lacks {name}")
    result: dict[str, Any] = spec
    return result


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
    from ..export.building import load_origin

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
